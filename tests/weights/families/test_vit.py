"""ViT folders."""

from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import vit
from vlm_jax.weights.folder import WeightsError, open_tensors

SMALL = dict(hidden_size=16, image_size=24, num_hidden_layers=2, intermediate_size=20)
CONFIGS = {
    "usual": SMALL | dict(num_attention_heads=4, patch_size=8),
    "rectangular images": SMALL
    | dict(num_attention_heads=1, patch_size=4, image_size=[8, 20], num_hidden_layers=1),
    "no biases, wide heads": SMALL
    | dict(num_attention_heads=3, head_dim=6, patch_size=7, num_hidden_layers=3, qkv_bias=False)
    | dict(hidden_act="gelu_new", layer_norm_eps=1e-3, pooler_output_size=9, pooler_act="relu"),
}


def hidden(model, given, pooled=True, **flags):
    """The reference's outputs by our names."""
    found = model(**given, **flags)
    tokens = dict(tokens=found.last_hidden_state)
    return tokens | dict(pooled=found.pooler_output) if pooled else tokens


@pytest.mark.parametrize("case", CONFIGS)
def test_vit(case, tmp_path):
    model = parity.randomise(ViTModel(ViTConfig(**CONFIGS[case])))
    size = CONFIGS[case]["image_size"]
    sides = (size, size) if isinstance(size, int) else size
    inputs = dict(pixel_values=parity.pixels(2, 3, *sides))
    names = ("tokens", "pooled")
    loaded = parity.check(model, inputs, tmp_path, names=names, theirs=hidden)
    if not isinstance(size, int):
        return  # the reference resizes square tables only
    other = dict(pixel_values=parity.pixels(2, 3, 33, 16))
    expected = parity.outputs(model, other, partial(hidden, interpolate_pos_encoding=True), names)
    parity.compare(parity.run(loaded, "forward", other), expected, 1e-5)


def test_vit_without_pooler(tmp_path):
    loading = dict(add_pooling_layer=False)
    model = parity.randomise(ViTModel(ViTConfig(**CONFIGS["usual"]), **loading))
    inputs = dict(pixel_values=parity.pixels(2, 3, 24, 24))
    theirs = partial(hidden, pooled=False)
    parity.check(model, inputs, tmp_path, names=("tokens",), theirs=theirs, loading=loading)


@pytest.mark.parametrize(
    ("case", "classes"), [("usual", 7), ("no biases, wide heads", 2), ("usual", 0)]
)
def test_classifier(case, classes, tmp_path):
    config = ViTConfig(**CONFIGS[case], num_labels=classes)
    model = parity.randomise(ViTForImageClassification(config))
    parity.check(model, dict(pixel_values=parity.pixels(2, 3, 24, 24)), tmp_path)


def test_published_names(tmp_path):
    config = ViTConfig(**CONFIGS["usual"], architectures=["ViTModel"])
    config.save_pretrained(tmp_path)
    described = parity.describe(tmp_path)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in parity.published(described).items()
    }
    assert "encoder.layer.1.attention.output.dense.bias" in tensors
    save_file(tensors, tmp_path / "model.safetensors", metadata=dict(format="pt"))
    model, info = ViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    loaded = pretrained.read_folder(tmp_path)
    inputs = dict(pixel_values=parity.pixels(1, 3, 24, 24))
    expected = parity.outputs(model.eval(), inputs, hidden, ("tokens", "pooled"))
    parity.compare(parity.run(loaded, "forward", inputs), expected, 1e-5)
    assert set(open_tensors(tmp_path)) == set(tensors)


LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
LARGE |= dict(num_attention_heads=16)
CLASSIFIER = dict(architectures=["ViTForImageClassification"], num_labels=1000)
COUNTS = {
    "B/16 at 224, 1000 classes": (CLASSIFIER, 86_567_656),
    "B/16 at 384, 1000 classes": (CLASSIFIER | dict(image_size=384), 86_859_496),
    "L/16 at 224, 1000 classes": (CLASSIFIER | LARGE, 304_326_632),
    "B/16 trunk": (dict(has_pooler=False), 85_798_656),
    "B/16 with pooler": ({}, 85_798_656 + 590_592),
    "L/14 trunk": (LARGE | dict(patch_size=14, has_pooler=False), 303_178_752),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="vit")) == expected


def test_values_that_are_not_supported():
    for given, message in (
        (dict(patch_size=[16, 8]), r"patch_size=\[16, 8\]"),
        (dict(num_channels=1), "num_channels=1"),
        (dict(architectures=["ViTForMaskedImageModeling"]), "ViTForMaskedImageModeling"),
    ):
        with pytest.raises(WeightsError, match=message):
            vit.model(given)
