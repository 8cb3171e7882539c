"""SigLIP folders, and SigLIP 2's of one resolution."""

import numpy as np
import pytest
from transformers import SiglipConfig, SiglipModel

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.folder import WeightsError

NAMES = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
CASES = {
    "usual": (
        dict(num_attention_heads=2, intermediate_size=24, num_hidden_layers=2),
        dict(num_attention_heads=4, intermediate_size=20, num_hidden_layers=3, patch_size=8),
    ),
    "patches that leave pixels over, exact GELU": (
        dict(num_attention_heads=1, intermediate_size=18, num_hidden_layers=1)
        | dict(hidden_size=12, projection_size=16, hidden_act="gelu"),
        dict(num_attention_heads=8, intermediate_size=28, num_hidden_layers=2, patch_size=7)
        | dict(hidden_act="gelu", layer_norm_eps=1e-3),
    ),
}


def build(case):
    text, vision = CASES[case]
    words = dict(hidden_size=16, vocab_size=50, max_position_embeddings=9)
    return SiglipModel(
        SiglipConfig(
            text_config=words | dict(bos_token_id=0, eos_token_id=1) | text,
            vision_config=dict(hidden_size=16, image_size=32) | vision,
        )
    )


@pytest.mark.parametrize("case", CASES)
def test_siglip(case, tmp_path):
    model = parity.randomise(build(case))
    inputs = dict(pixel_values=parity.pixels(3, 3, 32, 32), input_ids=parity.tokens(3, 7, 50))
    loaded = parity.check(model, inputs, tmp_path, names=NAMES)
    mask = np.ones((3, 7), np.int64)
    mask[1, 4:] = 0
    bigger = dict(pixel_values=parity.pixels(3, 3, 45, 40), attention_mask=mask)

    def resized(model, given):
        found = model(**given, interpolate_pos_encoding=True)
        towers = dict(image=found.vision_model_output, text=found.text_model_output)
        tokens = {f"{name}_tokens": out.last_hidden_state for name, out in towers.items()}
        return dict(found) | tokens

    names = (*NAMES, "image_tokens", "text_tokens")
    expected = parity.outputs(model, inputs | bigger, resized, names)
    parity.compare(parity.run(loaded, "forward", inputs | bigger), expected, 1e-5)


B16 = dict(vision_config={}, text_config={})
LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
LARGE |= dict(num_attention_heads=16)
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
SO400M |= dict(num_attention_heads=16)
SIZE_384 = dict(patch_size=14, image_size=384)
COUNTS = {
    "B/16 at 224": (B16, 203_155_970),
    "B/16 at 256": (B16 | dict(vision_config=dict(image_size=256)), 203_202_050),
    "L/16 at 256": (
        dict(text_config=LARGE, vision_config=LARGE | dict(image_size=256)),
        652_150_786,
    ),
    "So400m/14 at 384": (dict(text_config=SO400M, vision_config=SO400M | SIZE_384), 877_960_498),
    "So400m/14 at 224": (
        dict(
            text_config=SO400M | dict(max_position_embeddings=16),
            vision_config=SO400M | dict(patch_size=14, image_size=224),
        ),
        877_360_306,
    ),
    "SigLIP 2 B/16": (dict(text_config=dict(vocab_size=256_000)), 375_187_970),
    "SigLIP 2 So400m/14": (
        dict(text_config=SO400M | dict(vocab_size=256_000), vision_config=SO400M | SIZE_384),
        1_136_008_498,
    ),
}


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert pretrained.count(config | dict(model_type="siglip")) == expected


def test_values_that_are_not_supported():
    config = dict(model_type="siglip", vision_config=dict(image_size=[224, 448]))
    with pytest.raises(WeightsError, match=r"image_size=\[224, 448\]"):
        pretrained.count(config)
    with pytest.raises(WeightsError, match="hidden_act='xielu'"):
        pretrained.count(dict(model_type="siglip", vision_config=dict(hidden_act="xielu")))
