"""Gemma 3 with images."""

import numpy as np
import pytest
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError, open_tensors
from vlm_jax.weights.pretrained import count, read_folder

SMALL = dict(vocab_size=60, max_position_embeddings=64, eos_token_id=None, bos_token_id=None)
CASES = {
    "a window shorter than an image": (
        dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
        | dict(intermediate_size=20, num_hidden_layers=3, sliding_window=3)
        | dict(sliding_window_pattern=3, query_pre_attn_scalar=7),
        dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, patch_size=8)
        | dict(num_hidden_layers=2, image_size=40, vision_use_head=False),
        dict(image_token_index=58, mm_tokens_per_image=4),
    ),
    "the tower's head, an image token beyond the vocabulary": (
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=4)
        | dict(intermediate_size=12, num_hidden_layers=2, sliding_window=5)
        | dict(layer_types=["full_attention", "sliding_attention"], final_logit_softcapping=2.0),
        dict(hidden_size=12, num_attention_heads=3, intermediate_size=20, patch_size=4)
        | dict(num_hidden_layers=1, image_size=24, layer_norm_eps=1e-3),
        dict(image_token_index=60, mm_tokens_per_image=9),
    ),
}


def build(case):
    text, vision, other = CASES[case]
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**SMALL, **text).to_dict(),
        vision_config=SiglipVisionConfig(**vision).to_dict(),
        **other,
    )
    return parity.randomise(Gemma3ForConditionalGeneration(config))


def texts(model):
    """Two images in the first row, one in the second."""
    image, count = model.config.image_token_index, model.config.mm_tokens_per_image
    size, words = model.config.vision_config.image_size, parity.tokens(2, 7 + count, 50)
    pictures, span = parity.pixels(3, 3, size, size), np.full(count, image)
    first = np.concatenate([words[0, :2], span, words[0, 2:4], span, words[0, 4:7]])
    second = np.concatenate([words[1, :5], span, words[1, 5:]])
    ids = np.stack([first, second])
    types = (ids == image).astype(np.int64)
    text = dict(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=types)
    return text | dict(pixel_values=pictures)


@pytest.mark.parametrize("case", CASES)
def test_gemma3(case, tmp_path):
    model = build(case)
    inputs = texts(model)
    parity.check(model, inputs, tmp_path, writes=inputs)
    names = set(open_tensors(tmp_path / "exported"))
    assert names >= {
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.mm_input_projection_weight",
        "language_model.model.layers.0.self_attn.q_norm.weight",
    }
    loaded = read_folder(tmp_path / "exported")
    del inputs["token_type_ids"]  # then the reference reads images causally
    expected = parity.outputs(model, inputs, lambda m, i: m(**i), ("logits",))
    parity.compare(parity.run(loaded, "forward", inputs), expected, 1e-5)


TEXT_4B = dict(hidden_size=2560, intermediate_size=10240, model_type="gemma3_text")
TEXT_4B |= dict(num_hidden_layers=34, rope_scaling=dict(factor=8.0, rope_type="linear"))
TEXT_4B |= dict(sliding_window=1024)
TOWER = dict(hidden_size=1152, image_size=896, intermediate_size=4304, num_attention_heads=16)
TOWER |= dict(model_type="siglip_vision_model", num_hidden_layers=27, patch_size=14)
LARGE = dict(model_type="gemma3", mm_tokens_per_image=256, text_config=TEXT_4B)
COUNTS = {
    "gemma-3-4b-pt": (
        LARGE | dict(vision_config=TOWER | dict(vision_use_head=False)),
        4_300_079_472,
    ),
    "with the tower's head": (LARGE | dict(vision_config=TOWER), 4_315_317_824),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


def test_what_is_not_supported_is_named():
    with pytest.raises(WeightsError, match="mm_tokens_per_image=10000"):
        count(COUNTS["gemma-3-4b-pt"][0] | dict(mm_tokens_per_image=10000))
