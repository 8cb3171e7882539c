"""Idefics3 and SmolVLM."""

import numpy as np
import pytest
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3VisionConfig,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError, open_tensors
from vlm_jax.weights.pretrained import count, read_folder

SMALL = dict(vocab_size=60, max_position_embeddings=64, pad_token_id=2)
SMALL |= dict(eos_token_id=None, bos_token_id=None)
CASES = {
    "idefics3": (
        (Idefics3Config, Idefics3VisionConfig, Idefics3ForConditionalGeneration),
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2)
        | dict(intermediate_size=24, num_hidden_layers=2, rms_norm_eps=1e-3),
        dict(hidden_size=12, num_attention_heads=3, intermediate_size=20, patch_size=4)
        | dict(num_hidden_layers=3, image_size=24),
        dict(scale_factor=2, image_token_id=58),
    ),
    "idefics3, tied, biases, blocks of nine": (
        (Idefics3Config, Idefics3VisionConfig, Idefics3ForConditionalGeneration),
        dict(hidden_size=18, num_attention_heads=6, num_key_value_heads=2, head_dim=4)
        | dict(intermediate_size=14, num_hidden_layers=3, attention_bias=True, mlp_bias=True)
        | dict(hidden_act="gelu", rope_parameters=dict(rope_type="default", rope_theta=99.0)),
        dict(hidden_size=10, num_attention_heads=5, intermediate_size=6, patch_size=5)
        | dict(num_hidden_layers=1, image_size=30, hidden_act="relu"),
        dict(scale_factor=3, image_token_id=54, tie_word_embeddings=True),
    ),
    "smolvlm, tied, an image token beyond the vocabulary": (
        (SmolVLMConfig, SmolVLMVisionConfig, SmolVLMForConditionalGeneration),
        dict(hidden_size=12, num_attention_heads=3, num_key_value_heads=1, head_dim=8)
        | dict(intermediate_size=20, num_hidden_layers=3),
        dict(hidden_size=16, num_attention_heads=2, intermediate_size=28, patch_size=8)
        | dict(num_hidden_layers=2, image_size=48, hidden_act="gelu", layer_norm_eps=1e-3),
        dict(scale_factor=3, image_token_id=59, tie_word_embeddings=True),
    ),
    "smolvlm, blocks of sixteen": (
        (SmolVLMConfig, SmolVLMVisionConfig, SmolVLMForConditionalGeneration),
        dict(hidden_size=16, num_attention_heads=8, num_key_value_heads=2, rms_norm_eps=1e-3)
        | dict(intermediate_size=12, num_hidden_layers=1),
        dict(hidden_size=12, num_attention_heads=1, intermediate_size=16, patch_size=6)
        | dict(num_hidden_layers=3, image_size=48, hidden_act="quick_gelu"),
        dict(scale_factor=4, image_token_id=58),
    ),
}


def build(case):
    (kind, tower, network), text, vision, other = CASES[case]
    config = kind(
        text_config=LlamaConfig(**SMALL, **text).to_dict(),
        vision_config=tower(**vision).to_dict(),
        **other,
    )
    return parity.randomise(network(config))


def texts(model):
    """Three tiles, two of them partly padding, in the first row; one tile in the second."""
    config, size = model.config, model.config.vision_config.image_size
    pixels, mask = parity.pixels(2, 3, 3, size, size), np.ones((2, 3, size, size), np.int64)
    pixels[1, 1:] = 0
    mask[0, 1, size * 2 // 3 + 1 :] = 0
    mask[0, 2, :, size // 3 + 1 :] = 0
    count = (size // config.vision_config.patch_size // config.scale_factor) ** 2
    words, tile = parity.tokens(2, 7 + 2 * count, 50), np.full(count, config.image_token_id)
    first = np.concatenate([words[0, :2], tile, words[0, 2:3], tile, tile, words[0, 3:7]])
    second = np.concatenate([words[1, :5], tile, words[1, 5:]])
    ids = np.stack([first, second])
    text = dict(input_ids=ids, attention_mask=np.ones_like(ids))
    return text | dict(pixel_values=pixels, pixel_attention_mask=mask)


@pytest.mark.parametrize("case", CASES)
def test_idefics3(case, tmp_path):
    model = build(case)
    inputs = texts(model)
    parity.check(model, inputs, tmp_path, writes=inputs)
    names = set(open_tensors(tmp_path / "exported"))
    assert names >= {
        "model.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.connector.modality_projection.proj.weight",
        "model.text_model.layers.0.mlp.up_proj.weight",
    }
    loaded = read_folder(tmp_path / "exported")
    if case == "idefics3":
        masked = parity.outputs(model, inputs, lambda m, i: m(**i), ("logits",))["logits"]
        del inputs["pixel_attention_mask"]
        expected = parity.outputs(model, inputs, lambda m, i: m(**i), ("logits",))
        parity.compare(parity.run(loaded, "forward", inputs), expected, 1e-5)
        assert np.abs(masked - expected["logits"])[0].max() > 1e-3


TOWER = dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072, image_size=512)
TOWER |= dict(num_hidden_layers=12, patch_size=16)
TEXT_256M = dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, head_dim=64)
TEXT_256M |= dict(num_hidden_layers=30, num_key_value_heads=3, vocab_size=49280)
TEXT_500M = dict(hidden_size=960, intermediate_size=2560, num_attention_heads=15, head_dim=64)
TEXT_500M |= dict(num_hidden_layers=32, num_key_value_heads=5, vocab_size=49280)
TOWER_8B = dict(hidden_size=1152, num_attention_heads=16, intermediate_size=4304, image_size=364)
TOWER_8B |= dict(num_hidden_layers=27, patch_size=14)
TEXT_8B = dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32)
TEXT_8B |= dict(num_hidden_layers=32, num_key_value_heads=8, vocab_size=128259)


def published(text, vision, scale, **other):
    return dict(
        model_type="idefics3", text_config=text, vision_config=vision, scale_factor=scale, **other
    )


COUNTS = {
    "SmolVLM-256M-Instruct": (published(TEXT_256M, TOWER, 4), 256_484_928),
    "SmolVLM-256M, tied": (published(TEXT_256M, TOWER, 4, tie_word_embeddings=True), 228_099_648),
    "SmolVLM-500M-Instruct": (published(TEXT_500M, TOWER, 4), 507_482_304),
    "SmolVLM-500M, tied": (published(TEXT_500M, TOWER, 4, tie_word_embeddings=True), 460_173_504),
    "Idefics3-8B-Llama3": (published(TEXT_8B, TOWER_8B, 2), 8_462_086_384),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(scale_factor=5), "scale_factor=5"),
        (dict(text_config=TEXT_8B | dict(model_type="mystery")), "model_type='mystery'"),
    ],
)
def test_what_is_not_supported_is_named(change, match):
    with pytest.raises(WeightsError, match=match):
        count(COUNTS["Idefics3-8B-Llama3"][0] | change)
