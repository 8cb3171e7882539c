"""IDEFICS folders."""

import numpy as np
import pytest
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from tests.weights import parity
from vlm_jax import experiment
from vlm_jax.tokenizers import make_tokenizer
from vlm_jax.weights.families import idefics
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count

SMALL = dict(vocab_size=50, max_position_embeddings=32, freeze_text_layers=False)
SMALL |= dict(freeze_vision_layers=False, hidden_size=12, num_attention_heads=3)
VISION = dict(embed_dim=16, image_size=16, patch_size=8, num_hidden_layers=2)
VISION |= dict(num_attention_heads=2, intermediate_size=20)
PERCEIVER = dict(resampler_n_latents=3, resampler_depth=2, resampler_n_heads=3)
PERCEIVER |= dict(resampler_head_dim=4, qk_layer_norms_perceiver=True)
CASES = {
    "resampler, every second layer": dict(num_hidden_layers=4, intermediate_size=20)
    | dict(cross_layer_interval=2, qk_layer_norms=True, additional_vocab_size=2)
    | dict(use_resampler=True, perceiver_config=PERCEIVER, vision_config=VISION),
    "every layer, vector gates, tied": dict(num_hidden_layers=2, intermediate_size=28)
    | dict(alpha_type="vector", tie_word_embeddings=True, hidden_act="gelu", rms_norm_eps=1e-3)
    | dict(vision_config=VISION | dict(hidden_act="quick_gelu", patch_size=4)),
}
LARGE = dict(
    cross_layer_interval=4,
    qk_layer_norms=True,
    additional_vocab_size=2,
    use_resampler=True,
    perceiver_config=dict(qk_layer_norms_perceiver=True),
    vision_config=dict(embed_dim=1280),
)


def build(case):
    return parity.randomise(IdeficsForVisionText2Text(IdeficsConfig(**SMALL, **CASES[case])))


def texts(model):
    """Two pictures for each row, read from some token on; the second row begins with padding."""
    ids = parity.tokens(2, 7, 50 + model.config.additional_vocab_size)
    ids[0, :2] = ids.max()
    seen = np.zeros((2, 7, 2), np.int64)  # nothing, the first picture, the second, both
    seen[0, 2:4, 0] = seen[0, 4:, 1] = seen[1, 1:, 0] = seen[1, 5:, 1] = 1
    mask = np.ones((2, 7), np.int64)
    mask[1, 0] = 0
    pixels = parity.pixels(2, 2, 3, 16, 16)
    inputs = dict(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    return inputs | dict(image_attention_mask=seen)


@pytest.mark.parametrize("case", CASES)
def test_idefics(case, tmp_path):
    model = build(case)
    inputs = texts(model)
    where = {"logits": inputs["attention_mask"]}
    parity.check(model, inputs, tmp_path, where=where, writes=dict(inputs))


def test_count():
    assert count(dict(model_type="idefics") | LARGE) == 8_929_679_632


def test_unsupported_values_are_named():
    with pytest.raises(WeightsError, match="cross_layer_interval=3"):
        idefics.model(dict(num_hidden_layers=32, cross_layer_interval=3))
    with pytest.raises(WeightsError, match="alpha_type='matrix'"):
        idefics.model(dict(alpha_type="matrix"))


def test_words_added_to_the_vocabulary_count_when_a_tokenizer_is_checked():
    words = make_tokenizer({"name": "word"}, lambda: ["a red circle"])
    fits = dict(vocab=words.size - 2, extra_vocab=2)
    experiment._check_vocabularies(dict(decoder=fits), words)
    with pytest.raises(ValueError, match=r"vocab=6 with extra_vocab=1 is too small"):
        experiment._check_vocabularies(dict(decoder=dict(vocab=6, extra_vocab=1)), words)
