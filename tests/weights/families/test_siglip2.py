"""SigLIP 2 NaFlex folders: images of several shapes in one batch."""

import numpy as np
import pytest
from transformers import Siglip2Config, Siglip2Model

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.folder import WeightsError

NAMES = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
CASES = {
    "usual": (
        dict(num_attention_heads=2, intermediate_size=24, num_hidden_layers=2),
        dict(num_attention_heads=4, intermediate_size=20, num_patches=16, patch_size=4),
    ),
    "ReLU, deeper": (
        dict(num_attention_heads=4, intermediate_size=18, num_hidden_layers=1)
        | dict(hidden_size=12, projection_size=16, layer_norm_eps=1e-3),
        dict(num_attention_heads=1, intermediate_size=28, num_patches=9, patch_size=3)
        | dict(hidden_act="relu", num_hidden_layers=3),
    ),
}


def made(case):
    """A model, and four pictures of different shapes with their texts."""
    text, vision = CASES[case]
    words = dict(hidden_size=16, vocab_size=50, max_position_embeddings=9)
    config = Siglip2Config(
        text_config=words | dict(bos_token_id=0, eos_token_id=1) | text,
        vision_config=dict(hidden_size=16, num_hidden_layers=2) | vision,
    )
    model = parity.randomise(Siglip2Model(config))
    shapes = np.array([[2, 7], [5, 3], [4, 4], [1, 2]])
    mask = (np.arange(17)[None] < shapes.prod(axis=1)[:, None]).astype(np.int64)
    inputs = dict(
        pixel_values=parity.pixels(4, 17, 3 * config.vision_config.patch_size**2),
        input_ids=parity.tokens(4, 9, 50),
        pixel_attention_mask=mask,
        spatial_shapes=shapes,
    )
    return model, inputs


@pytest.mark.parametrize("case", CASES)
def test_naflex(case, tmp_path):
    parity.check(*made(case), tmp_path, names=NAMES)


SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
SO400M |= dict(num_attention_heads=16)
COUNTS = {
    "B/16": (dict(text_config=dict(vocab_size=256_000)), 375_234_050),
    "So400m/16": (
        dict(text_config=SO400M | dict(vocab_size=256_000), vision_config=SO400M),
        1_135_670_962,
    ),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="siglip2")) == expected


def test_values_that_are_not_supported():
    with pytest.raises(WeightsError, match="num_patches=200"):
        pretrained.count(dict(model_type="siglip2", vision_config=dict(num_patches=200)))
