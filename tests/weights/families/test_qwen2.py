"""Qwen2 as a language model."""

import numpy as np
import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count

SMALL = dict(vocab_size=60, max_position_embeddings=64)
CASES = {
    "windows in the last layers": dict(hidden_size=16, num_attention_heads=4)
    | dict(num_key_value_heads=2, intermediate_size=24, num_hidden_layers=3)
    | dict(use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "tied, a list of layers": dict(hidden_size=12, num_attention_heads=3, num_key_value_heads=1)
    | dict(intermediate_size=20, num_hidden_layers=2, tie_word_embeddings=True, hidden_act="gelu")
    | dict(use_sliding_window=True, sliding_window=4, rms_norm_eps=1e-3)
    | dict(layer_types=["sliding_attention", "full_attention"])
    | dict(rope_parameters=dict(rope_type="default", rope_theta=77.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_qwen2(case, tmp_path):
    model = parity.randomise(Qwen2ForCausalLM(Qwen2Config(**SMALL, **CASES[case])))
    ids = parity.tokens(2, 9, 60)
    inputs = dict(input_ids=ids, attention_mask=np.ones_like(ids))
    parity.check(model, inputs, tmp_path, writes=inputs)


COUNTS = {
    "Qwen2-0.5B": (
        dict(model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24)
        | dict(num_attention_heads=14, num_key_value_heads=2, vocab_size=151936)
        | dict(tie_word_embeddings=True, max_window_layers=24, sliding_window=131072),
        494_032_768,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


def test_what_is_not_supported_is_named():
    with pytest.raises(WeightsError, match="layer_types='linear_attention'"):
        count(dict(model_type="qwen2", layer_types=["linear_attention"]))
