"""ViLT folders."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    ViltModel,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, read_folder

CONFIGS = {
    "square": dict(hidden_size=24, num_attention_heads=2, intermediate_size=20)
    | dict(num_hidden_layers=3, vocab_size=40, max_position_embeddings=9, num_labels=5)
    | dict(image_size=24, patch_size=8),
    "no biases, three modalities": dict(hidden_size=16, num_attention_heads=4)
    | dict(intermediate_size=36, num_hidden_layers=1, vocab_size=33, max_position_embeddings=7)
    | dict(image_size=32, patch_size=16, qkv_bias=False, modality_type_vocab_size=3)
    | dict(hidden_act="gelu_new", layer_norm_eps=1e-3, num_labels=3, type_vocab_size=1),
}
CLASSES = {
    ViltModel: ("tokens", "pooled"),
    ViltForMaskedLM: ("logits",),
    ViltForQuestionAnswering: ("logits",),
    ViltForImageAndTextRetrieval: ("logits",),
}
CASES = [(kind, case, CLASSES[kind]) for kind in CLASSES for case in CONFIGS]
OUTPUTS_ONLY = [(ViltModel, "no biases, three modalities"), (ViltForMaskedLM, "square")]
"""Whose gradients are those of another class with the same config."""


def inputs(case: str) -> dict[str, np.ndarray]:
    """The second image is smaller than the first, and both are larger than the usual ones; the
    second text is padded, on the left where there are three modalities.
    """
    config = CONFIGS[case]
    patch, mask = config["patch_size"], np.ones((2, 7), np.int64)
    mask[1, slice(5, None) if case == "square" else slice(2)] = 0
    seen = np.ones((2, 4 * patch, 5 * patch), np.int64)
    seen[1, 3 * patch :] = 0
    seen[1, :, 2 * patch :] = 0
    return dict(
        input_ids=parity.tokens(2, 7, config["vocab_size"]),
        attention_mask=mask,
        pixel_values=parity.pixels(2, 3, 4 * patch, 5 * patch),
        pixel_mask=seen,
    )


def ask(model, given):
    """The reference shuffles the patches of an image: the same way every time."""
    torch.manual_seed(0)
    found = model(**given)
    names = {"tokens": "last_hidden_state", "pooled": "pooler_output", "logits": "logits"}
    return {ours: found[theirs] for ours, theirs in names.items() if theirs in found}


@pytest.mark.parametrize(("kind", "case", "names"), CASES)
def test_vilt(kind, case, names, tmp_path):
    model, given = parity.randomise(kind(ViltConfig(**CONFIGS[case]))), inputs(case)
    text = np.pad(given["attention_mask"], ((0, 0), (0, 21)))
    where = dict(tokens=text)
    where |= dict(logits=given["attention_mask"]) if kind is ViltForMaskedLM else {}
    learns = (kind, case) not in OUTPUTS_ONLY
    options = dict(theirs=ask, where=where, gradients=learns)
    parity.check(model, given, tmp_path, names=names, **options)


@pytest.mark.parametrize(("case", "count"), [("square", 2), ("no biases, three modalities", 3)])
def test_a_text_with_several_images(case, count, tmp_path):
    config = CONFIGS[case] | dict(modality_type_vocab_size=count + 1, num_images=count)
    model, given = parity.randomise(ViltForImagesAndTextClassification(ViltConfig(**config))), {}
    for name, x in inputs(case).items():
        pictures = np.stack([np.roll(x, i, axis=0) for i in range(count)], axis=1)
        given[name] = pictures if name.startswith("pixel") else x
    loaded = parity.check(model, given, tmp_path, theirs=ask)
    one = {name: x[:, 0] if name.startswith("pixel") else x for name, x in given.items()}
    with pytest.raises(ValueError, match=f"1 images for each text: this model reads {count}"):
        loaded.call("forward", one)


def test_one_image_of_the_class_for_several(tmp_path):
    config = ViltConfig(**CONFIGS["square"], num_images=1)
    model = parity.randomise(ViltForImagesAndTextClassification(config))
    given = inputs("square")
    given["pixel_mask"] = given["pixel_mask"][:, None]
    parity.check(model, given, tmp_path, theirs=ask, gradients=False)


def test_images_of_the_usual_size_need_no_mask(tmp_path):
    model = parity.randomise(ViltForImageAndTextRetrieval(ViltConfig(**CONFIGS["square"])))
    model.save_pretrained(tmp_path)
    given = dict(input_ids=parity.tokens(2, 7, 40), pixel_values=parity.pixels(2, 3, 24, 24))
    expected = parity.outputs(model, given, ask, ("logits",))
    found = read_folder(tmp_path).call("match", given)
    parity.compare(found, expected, 1e-5)
    np.testing.assert_array_equal(found["score"], found["logits"])


def test_the_first_releases_name_of_the_words_bias(tmp_path):
    parity.randomise(ViltForMaskedLM(ViltConfig(**CONFIGS["square"]))).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bias = tensors.pop("mlm_score.decoder.bias")
    save_file(tensors | {"mlm_score.bias": bias}, tmp_path / "model.safetensors")
    params = read_folder(tmp_path).variables["params"]
    np.testing.assert_array_equal(params["reconstruct_head"]["words_bias"], bias)


def test_what_is_not_supported_is_named():
    with pytest.raises(WeightsError, match="max_image_length=200"):
        count(dict(model_type="vilt", max_image_length=200))
    several = dict(architectures=["ViltForImagesAndTextClassification"])
    with pytest.raises(WeightsError, match="num_images=2 is not supported with modality_type"):
        count(dict(model_type="vilt", num_images=2) | several)


COUNTS = {
    "B/32": ("ViltModel", {}, 111_595_008),
    "B/32, masked words": ("ViltForMaskedLM", {}, 112_217_658),
    "B/32, answers": ("ViltForQuestionAnswering", dict(num_labels=3129), 117_588_537),
    "B/32, two images": (
        "ViltForImagesAndTextClassification",
        dict(num_labels=2, num_images=2, modality_type_vocab_size=3),
        113_962_754,
    ),
    "B/32, retrieval": ("ViltForImageAndTextRetrieval", {}, 111_595_777),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    kind, config, expected = COUNTS[label]
    assert count(dict(model_type="vilt", architectures=[kind]) | config) == expected
