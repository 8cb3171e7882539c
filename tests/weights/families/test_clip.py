"""CLIP folders."""

from functools import partial

import numpy as np
import pytest
from transformers import CLIPConfig, CLIPModel

from tests.weights import parity
from vlm_jax.weights import pretrained

SMALL = dict(num_hidden_layers=2, projection_dim=12)
CASES = {
    "usual": (
        dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, **SMALL),
        dict(hidden_size=24, num_attention_heads=3, intermediate_size=20, patch_size=8, **SMALL),
        dict(eos_token_id=40, hidden_act="quick_gelu"),
    ),
    "old end token, exact GELU": (
        dict(hidden_size=12, num_attention_heads=6, intermediate_size=30, **SMALL),
        dict(hidden_size=20, num_attention_heads=5, intermediate_size=28, patch_size=16)
        | dict(num_hidden_layers=3, layer_norm_eps=1e-3),
        dict(eos_token_id=2, hidden_act="gelu"),
    ),
}


def with_tokens(model, given, **flags):
    """The reference's outputs by our names."""
    found = model(**given, **flags)
    towers = dict(image=found.vision_model_output, text=found.text_model_output)
    return dict(found) | {f"{name}_tokens": out.last_hidden_state for name, out in towers.items()}


@pytest.mark.parametrize("case", CASES)
def test_clip(case, tmp_path):
    text, vision, other = CASES[case]
    act = {"hidden_act": other["hidden_act"]}
    config = CLIPConfig(
        text_config=text
        | act
        | dict(vocab_size=50, max_position_embeddings=10)
        | dict(eos_token_id=other["eos_token_id"], bos_token_id=0, pad_token_id=1),
        vision_config=vision | act | dict(image_size=32),
        projection_dim=12,
    )
    model = parity.randomise(CLIPModel(config))
    ids = parity.tokens(3, 7, 40)
    ids[0, 4] = ids[1, 6] = 40  # the second text ends in its padding, the third nowhere
    mask = np.ones((3, 7), np.int64)
    mask[1, 5:] = 0
    inputs = dict(pixel_values=parity.pixels(3, 3, 32, 32), input_ids=ids, attention_mask=mask)
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    names += ("image_tokens", "text_tokens")
    loaded = parity.check(model, inputs, tmp_path, names=names, theirs=with_tokens)
    other = inputs | dict(pixel_values=parity.pixels(3, 3, 50, 33))
    ask = partial(with_tokens, interpolate_pos_encoding=True)
    expected = parity.outputs(model, other, ask, names)
    parity.compare(parity.run(loaded, "forward", other), expected, 1e-5)


L14 = dict(
    projection_dim=768,
    text_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    | dict(num_attention_heads=16, patch_size=14),
)
H14 = dict(
    projection_dim=1024,
    text_config=dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16)
    | dict(num_hidden_layers=24, hidden_act="gelu"),
    vision_config=dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32)
    | dict(num_attention_heads=16, patch_size=14, hidden_act="gelu"),
)
COUNTS = {
    "B/32": ({}, 151_277_313),
    "B/16": (dict(vision_config=dict(patch_size=16)), 149_620_737),
    "L/14": (L14, 427_616_513),
    "L/14 at 336": (
        L14 | dict(vision_config=L14["vision_config"] | dict(image_size=336)),
        427_944_193,
    ),
    "H/14": (H14, 986_109_441),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="clip")) == expected
