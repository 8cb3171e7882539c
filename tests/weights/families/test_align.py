"""ALIGN: EfficientNet beside BERT."""

import numpy as np
import pytest
import torch
from transformers import AlignConfig, AlignModel

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.folder import WeightsError

WORDS = dict(vocab_size=40, max_position_embeddings=12, num_hidden_layers=2, hidden_size=16)
WORDS |= dict(num_attention_heads=4, intermediate_size=24)
SMALL = dict(width_coefficient=0.25, depth_coefficient=1.0, depth_divisor=4, image_size=24)
CONFIGS = {
    "usual": dict(
        vision_config=SMALL
        | dict(kernel_sizes=[3, 5, 3], strides=[1, 2, 2], expand_ratios=[1, 6, 2])
        | dict(in_channels=[32, 16, 32], out_channels=[16, 32, 48], num_block_repeats=[1, 2, 1]),
        text_config=WORDS,
        projection_dim=12,
    ),
    "scaled, equal widths, odd sides": dict(
        vision_config=SMALL
        | dict(kernel_sizes=[5, 3, 5, 1], strides=[1, 2, 1, 2], expand_ratios=[1, 3, 4, 1])
        | dict(in_channels=[32, 32, 25, 25], out_channels=[32, 25, 25, 45])
        | dict(num_block_repeats=[1, 1, 1, 1], depth_coefficient=1.2, depthwise_padding=[2, 5])
        | dict(width_coefficient=0.2, depth_divisor=3)
        | dict(squeeze_expansion_ratio=0.5, hidden_act="gelu", batch_norm_eps=1e-2),
        text_config=WORDS | dict(hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3),
        projection_dim=9,
        temperature_init_value=0.3,
    ),
}
SIDES = {"usual": (24, 40), "scaled, equal widths, odd sides": (25, 37)}


def made(case):
    torch.manual_seed(0)
    model = parity.randomise(AlignModel(AlignConfig(**CONFIGS[case])))
    model.temperature.data = torch.tensor(0.37)
    return model


@pytest.mark.parametrize("case", CONFIGS)
def test_align(case, tmp_path):
    mask, types = np.ones((3, 7), np.int64), np.zeros((3, 7), np.int64)
    mask[1, 4:], types[:, 3:] = 0, 1
    inputs = dict(input_ids=parity.tokens(3, 7, 40), attention_mask=mask, token_type_ids=types)
    inputs["pixel_values"] = parity.pixels(3, 3, *SIDES[case])
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    parity.check(made(case), inputs, tmp_path, names=names)


def test_the_published_network_has_the_published_size():
    assert pretrained.count(dict(model_type="align")) == 172_117_841


def test_published_names_and_shapes():
    with torch.device("meta"):
        theirs = AlignModel(AlignConfig()).state_dict()
    theirs = {n: tuple(t.shape) for n, t in theirs.items() if "num_batches_tracked" not in n}
    assert parity.published(dict(model_type="align")) == theirs


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(pooling_type="max"), "pooling_type='max'"),
        (dict(hidden_act="prelu"), "hidden_act='prelu'"),
        (dict(strides=[1, 2, 3, 2, 1, 2, 1]), "strides of 1 or 2"),
        (dict(kernel_sizes=[3]), "as many stages"),
        (dict(in_channels=[32, 16, 24, 48, 80, 112, 192]), "in_channels"),
        (dict(width_coefficient=1.0), "projection_dim=640 is not the width 320"),
    ],
)
def test_values_that_are_not_supported(section, message):
    with pytest.raises(WeightsError, match=message):
        pretrained.count(dict(model_type="align", vision_config=section))
