"""GPT-2 folders, with and without cross-attention."""

import jax
import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.weights import parity
from vlm_jax import models, trees
from vlm_jax.weights.families import gpt2
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, from_tensors

SMALL = dict(vocab_size=50, n_positions=16, bos_token_id=1, eos_token_id=2)
CASES = {
    "usual": dict(n_embd=12, n_layer=2, n_head=3),
    "cross, wide, unscaled, untied": dict(n_embd=20, n_layer=3, n_head=5, n_inner=28)
    | dict(add_cross_attention=True, scale_attn_weights=False, tie_word_embeddings=False)
    | dict(activation_function="relu", layer_norm_epsilon=1e-3),
}
MEDIUM = dict(n_embd=1024, n_layer=24, n_head=16)
COUNTS = {
    "GPT-2": ({}, 124_439_808),
    "GPT-2 medium": (MEDIUM, 354_823_168),
    "GPT-2 with cross-attention": (dict(add_cross_attention=True), 152_806_656),
}


def inputs_of(fields: dict) -> dict[str, np.ndarray]:
    mask = np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    inputs = dict(input_ids=parity.tokens(2, 9, 50), attention_mask=mask)
    if fields.get("add_cross_attention"):
        seen = np.ones((2, 4), np.int64)
        seen[0, 3:] = 0
        states = parity.pixels(2, 4, fields["n_embd"])
        inputs |= dict(encoder_hidden_states=states, encoder_attention_mask=seen)
    return inputs


@pytest.mark.parametrize("case", CASES)
def test_gpt2(case, tmp_path):
    model = parity.randomise(GPT2LMHeadModel(GPT2Config(**SMALL, **CASES[case])))
    inputs = inputs_of(CASES[case])
    writes = inputs | dict(attention_mask=inputs["attention_mask"][:, ::-1].copy())
    where = {"logits": inputs["attention_mask"]}
    parity.check(model, inputs, tmp_path, where=where, writes=writes)


def test_names_of_the_hub(tmp_path):
    """Without the prefix, with the buffers of old folders."""
    config = dict(model_type="gpt2") | SMALL | CASES["usual"]
    state = GPT2LMHeadModel(GPT2Config(**SMALL, **CASES["usual"])).state_dict()
    names = {name.removeprefix("transformer."): x.numpy() for name, x in state.items()}
    names |= {"h.0.attn.bias": np.ones((1, 1, 16, 16)), "h.1.attn.masked_bias": np.array(-1e4)}
    table = from_tensors(config, parity.Arrays(names)).variables["params"]["decoder"]["embed"]
    np.testing.assert_array_equal(table["position"], state["transformer.wpe.weight"])


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert count(dict(model_type="gpt2") | config) == expected


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1, 28_348_416), (2, 14_178_816), (4, 7_094_016), (8, 3_551_616), (16, 1_780_416)],
)
def test_smallcap_trains(factor, expected):
    """The cross-attention of SmallCap has heads of 64 / factor channels."""
    config = gpt2.model(dict(add_cross_attention=True))
    config["decoder"]["cross"] = dict(head_dim=64 // factor)
    batch, asks = gpt2.example(dict(add_cross_attention=True))
    network = models.build(config)
    shapes = jax.eval_shape(lambda k, b: network.init(k, b, asks), jax.random.key(0), batch)
    layers = shapes["params"]["decoder"]["transformer"]["layers"]
    assert trees.count_parameters(layers["cross_attention"]) == expected


def test_unsupported_values_are_named():
    with pytest.raises(WeightsError, match="scale_attn_by_inverse_layer_idx=True"):
        gpt2.model(dict(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(WeightsError, match="activation_function='xielu'"):
        gpt2.model(dict(activation_function="xielu"))
