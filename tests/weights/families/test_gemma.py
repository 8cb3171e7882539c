"""Gemma 1, 2 and 3 as language models."""

import numpy as np
import pytest
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count

SMALL = dict(vocab_size=60, max_position_embeddings=64, eos_token_id=None, bos_token_id=None)
FULL, LOCAL = "full_attention", "sliding_attention"
TWO_ROPES = {
    FULL: dict(rope_type="linear", rope_theta=9000.0, factor=8.0),
    LOCAL: dict(rope_type="default", rope_theta=300.0),
}
CASES = {
    "1: one kv head, wide heads": (
        GemmaForCausalLM,
        GemmaConfig,
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=1, head_dim=6)
        | dict(intermediate_size=24, num_hidden_layers=3, rms_norm_eps=1e-4),
    ),
    "1: biases, untied": (
        GemmaForCausalLM,
        GemmaConfig,
        dict(hidden_size=12, num_attention_heads=3, num_key_value_heads=3, head_dim=4)
        | dict(intermediate_size=20, num_hidden_layers=1, attention_bias=True)
        | dict(tie_word_embeddings=False, rope_parameters=dict(rope_theta=500.0)),
    ),
    "2: every second layer local": (
        Gemma2ForCausalLM,
        Gemma2Config,
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
        | dict(intermediate_size=24, num_hidden_layers=3, sliding_window=3)
        | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, query_pre_attn_scalar=5),
    ),
    "2: global layers first, no caps": (
        Gemma2ForCausalLM,
        Gemma2Config,
        dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
        | dict(
            intermediate_size=20,
            num_hidden_layers=3,
            sliding_window=4,
            layer_types=[FULL, FULL, LOCAL],
        )
        | dict(attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=True),
    ),
    "3: five local to one global": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
        | dict(intermediate_size=20, num_hidden_layers=7, sliding_window=3)
        | dict(rope_parameters=TWO_ROPES, query_pre_attn_scalar=7),
    ),
    "3: a list of layers, a cap": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=4, head_dim=4)
        | dict(
            intermediate_size=12, num_hidden_layers=2, sliding_window=4, layer_types=[FULL, LOCAL]
        )
        | dict(final_logit_softcapping=4.0, attn_logit_softcapping=1.5, rms_norm_eps=1e-3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gemma(case, tmp_path):
    kind, config, fields = CASES[case]
    model = kind(config(**SMALL, **fields))
    ids = parity.tokens(2, 9, 60)
    inputs = dict(input_ids=ids, attention_mask=np.ones_like(ids))
    # A seed whose weights amplify rounding little: seven layers of others put either side as far as
    # 1.4e-5 from float64.
    parity.check(parity.randomise(model, seed=1), inputs, tmp_path, writes=inputs)


GEMMA3_4B = dict(vocab_size=262208, hidden_size=2560, intermediate_size=10240)
GEMMA3_4B |= dict(num_hidden_layers=34, num_attention_heads=8, num_key_value_heads=4)
COUNTS = {
    "gemma-2b": (
        dict(model_type="gemma", hidden_act="gelu", hidden_size=2048, intermediate_size=16384)
        | dict(num_attention_heads=8, num_hidden_layers=18, num_key_value_heads=1)
        | dict(head_dim=256, vocab_size=256000),
        2_506_172_416,
    ),
    "gemma-2-2b": (dict(model_type="gemma2"), 2_614_341_888),
}
"""The published config.json (what differs from the defaults), and the number of parameters."""


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_activation", "gelu_mystery"),
        ("layer_types", [FULL, "chunked_attention"]),
        ("rope_parameters", dict(rope_type="yarn", rope_theta=1e4)),
        ("use_bidirectional_attention", True),
    ],
)
def test_what_is_not_supported_is_named(field, value):
    with pytest.raises(WeightsError, match=field if field != "rope_parameters" else "yarn"):
        count(dict(model_type="gemma2", num_hidden_layers=2) | {field: value})


def test_ropes_as_the_releases_write_them(tmp_path):
    """rope_scaling, rope_theta and rope_local_base_freq say what rope_parameters says now."""
    from vlm_jax.weights.families.gemma import fields

    new = dict(model_type="gemma3_text", num_hidden_layers=6, rope_parameters=TWO_ROPES)
    old = dict(model_type="gemma3_text", num_hidden_layers=6, rope_theta=9000.0)
    old |= dict(rope_scaling=dict(rope_type="linear", factor=8.0), rope_local_base_freq=300.0)
    assert fields(new) == fields(old)
    assert fields(old)["pattern"] == (1, 1, 1, 1, 1, 0)
