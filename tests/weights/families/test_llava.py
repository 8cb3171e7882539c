"""Llama and LLaVA folders."""

import numpy as np
import pytest
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.weights import parity

LLAMA3 = dict(rope_type="llama3", rope_theta=5000.0, factor=4.0, low_freq_factor=1.0)
LLAMA3 |= dict(high_freq_factor=4.0, original_max_position_embeddings=16)
TEXTS = {
    "grouped, tied": dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2)
    | dict(intermediate_size=24, num_hidden_layers=2, tie_word_embeddings=True),
    "biases, wide heads, llama3 angles": dict(hidden_size=12, num_attention_heads=3, head_dim=8)
    | dict(num_key_value_heads=1, intermediate_size=20, num_hidden_layers=3)
    | dict(attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3, rms_norm_eps=1e-3),
}
SMALL = dict(vocab_size=60, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)


@pytest.mark.parametrize("case", TEXTS)
def test_llama(case, tmp_path):
    model = parity.randomise(LlamaForCausalLM(LlamaConfig(**SMALL, **TEXTS[case])))
    mask = np.ones((2, 9), np.int64)
    inputs = dict(input_ids=parity.tokens(2, 9, 60), attention_mask=mask)
    parity.check(model, inputs, tmp_path, writes=inputs)


VISIONS = {
    "usual": dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, patch_size=8),
    "wide": dict(hidden_size=12, num_attention_heads=3, intermediate_size=20, patch_size=16),
}


@pytest.mark.parametrize(
    ("text", "vision", "fields"),
    [
        ("grouped, tied", "usual", {}),
        (
            "biases, wide heads, llama3 angles",
            "wide",
            dict(vision_feature_layer=-1, vision_feature_select_strategy="full")
            | dict(projector_hidden_act="relu", multimodal_projector_bias=False),
        ),
    ],
)
def test_llava(text, vision, fields, tmp_path):
    tower = CLIPVisionConfig(**VISIONS[vision], num_hidden_layers=3, image_size=32)
    language = LlamaConfig(**SMALL, **TEXTS[text])
    tied = language.tie_word_embeddings
    parts = dict(vision_config=tower, text_config=language, image_token_index=59)
    config = LlavaConfig(**parts, tie_word_embeddings=tied, **fields)
    model = parity.randomise(LlavaForConditionalGeneration(config))
    count = (32 // tower.patch_size) ** 2
    count += fields.get("vision_feature_select_strategy") == "full"
    words = parity.tokens(2, 7, 50)
    images = np.full((2, count), 59)
    ids = np.concatenate([words[:, :3], images, words[:, 3:]], axis=1)
    mask = np.ones_like(ids)
    inputs = dict(pixel_values=parity.pixels(2, 3, 32, 32), input_ids=ids, attention_mask=mask)
    parity.check(model, inputs, tmp_path, writes=inputs)
