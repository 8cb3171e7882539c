"""PaliGemma 1 and 2."""

import numpy as np
import pytest
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError, open_tensors
from vlm_jax.weights.pretrained import count, read_folder

SMALL = dict(vocab_size=60, max_position_embeddings=64, eos_token_id=None, bos_token_id=None)
CASES = {
    "1": (
        GemmaConfig,
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=1, head_dim=6)
        | dict(intermediate_size=24, num_hidden_layers=2),
        dict(hidden_size=12, num_attention_heads=3, intermediate_size=20, patch_size=14)
        | dict(num_hidden_layers=3, image_size=30),
        dict(image_token_index=58),
    ),
    "1, three queries a key, untied, the tower's head": (
        GemmaConfig,
        dict(hidden_size=12, num_attention_heads=6, num_key_value_heads=2, head_dim=10)
        | dict(intermediate_size=18, num_hidden_layers=3, attention_bias=True, rms_norm_eps=1e-3)
        | dict(rope_parameters=dict(rope_type="default", rope_theta=70.0)),
        dict(hidden_size=15, num_attention_heads=5, intermediate_size=8, patch_size=6)
        | dict(num_hidden_layers=1, image_size=12, hidden_act="relu", vision_use_head=True),
        dict(image_token_index=54, tie_word_embeddings=False),
    ),
    "2, an image token beyond the vocabulary": (
        Gemma2Config,
        dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
        | dict(intermediate_size=20, num_hidden_layers=3, sliding_window=3)
        | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=5),
        dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, patch_size=16)
        | dict(num_hidden_layers=2, image_size=32, hidden_act="gelu", layer_norm_eps=1e-3),
        dict(image_token_index=60, vocab_size=60),
    ),
    "2, global layers first, no caps, untied": (
        Gemma2Config,
        dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=1, head_dim=4)
        | dict(intermediate_size=10, num_hidden_layers=5, sliding_window=4, rms_norm_eps=1e-3)
        | dict(layer_types=["full_attention"] * 2 + ["sliding_attention"] * 3)
        | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
        dict(hidden_size=8, num_attention_heads=4, intermediate_size=12, patch_size=9)
        | dict(num_hidden_layers=3, image_size=19, hidden_act="quick_gelu"),
        dict(image_token_index=58, tie_word_embeddings=False),
    ),
}


def build(case):
    kind, text, vision, other = CASES[case]
    config = PaliGemmaConfig(
        text_config=kind(**SMALL, **text).to_dict(),
        vision_config=SiglipVisionConfig(**dict(vision_use_head=False) | vision).to_dict(),
        projection_dim=text["hidden_size"],
        **other,
    )
    return parity.randomise(PaliGemmaForConditionalGeneration(config))


def texts(model, images_per_row=1):
    """Images, a prompt and an answer; the second row's prompt is longer."""
    image, vision = model.config.image_token_index, model.config.vision_config
    count = (vision.image_size // vision.patch_size) ** 2 * images_per_row
    words = parity.tokens(2, 7, 50)
    ids = np.concatenate([np.full((2, count), image), words], axis=1)
    types = np.zeros_like(ids)
    types[0, -4:] = types[1, -2:] = 1
    pictures = parity.pixels(2 * images_per_row, 3, vision.image_size, vision.image_size)
    mask = np.ones_like(ids)
    return dict(pixel_values=pictures, input_ids=ids, attention_mask=mask, token_type_ids=types)


@pytest.mark.parametrize("case", CASES)
def test_paligemma(case, tmp_path):
    model = build(case)
    inputs = texts(model, images_per_row=2 if "beyond" in case else 1)
    prompt = inputs | dict(token_type_ids=np.zeros_like(inputs["token_type_ids"]))
    parity.check(model, inputs, tmp_path, writes=prompt)
    names = set(open_tensors(tmp_path / "exported"))
    assert names >= {
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.linear.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
    }
    loaded = read_folder(tmp_path / "exported")
    # Without token types the reference's default attention cares whether anything is padding.
    del inputs["token_type_ids"]
    for padded in (0, 2) if case[0] == "1" else (0,):
        inputs["attention_mask"][0, :padded] = 0
        expected = parity.outputs(model, inputs, lambda m, i: m(**i), ("logits",))["logits"]
        found = parity.run(loaded, "forward", inputs)["logits"]
        parity.compare({"logits": found[1:]}, {"logits": expected[1:]}, 1e-5)


TOWER = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
TOWER |= dict(num_attention_heads=16, patch_size=14, vision_use_head=False)
FIRST = dict(hidden_size=2048, intermediate_size=16384, model_type="gemma", num_hidden_layers=18)
FIRST |= dict(num_attention_heads=8, num_key_value_heads=1, vocab_size=257216)
SECOND_3B = dict(model_type="gemma2", vocab_size=257216)
SECOND_10B = dict(model_type="gemma2", hidden_size=3584, intermediate_size=14336, vocab_size=257216)
SECOND_10B |= dict(num_hidden_layers=42, num_attention_heads=16, num_key_value_heads=8)


def published(text, size, width):
    vision = TOWER | dict(image_size=size)
    return dict(
        model_type="paligemma", text_config=text, vision_config=vision, projection_dim=width
    )


COUNTS = {
    "paligemma-3b-pt-224": (published(FIRST, 224, 2048), 2_923_466_480),
    "paligemma-3b-pt-448": (published(FIRST, 448, 2048), 2_924_351_216),
    "paligemma-3b-pt-896": (published(FIRST, 896, 2048), 2_927_890_160),
    "paligemma2-3b-pt-224": (published(SECOND_3B, 224, 2304), 3_032_242_416),
    "paligemma2-3b-pt-448": (published(SECOND_3B, 448, 2304), 3_033_127_152),
    "paligemma2-10b-pt-224": (published(SECOND_10B, 224, 3584), 9_662_638_832),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_what_is_not_supported_is_named(section):
    config = published(FIRST, 224, 2048)
    with pytest.raises(WeightsError, match="model_type='mystery'"):
        count(config | {section: config[section] | dict(model_type="mystery")})
