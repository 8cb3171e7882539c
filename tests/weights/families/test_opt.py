"""OPT folders."""

import numpy as np
import pytest
from transformers import OPTConfig, OPTForCausalLM

from tests.weights import parity
from vlm_jax.weights.families import opt
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, from_tensors

SMALL = dict(vocab_size=50, max_position_embeddings=16)
CASES = {
    "usual": dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, ffn_dim=20),
    "post-norm, no biases, untied": dict(hidden_size=20, num_hidden_layers=3, ffn_dim=12)
    | dict(num_attention_heads=2, do_layer_norm_before=False, enable_bias=False)
    | dict(activation_function="gelu", tie_word_embeddings=False),
    "norms without parameters": dict(hidden_size=12, num_hidden_layers=1, ffn_dim=24)
    | dict(num_attention_heads=6, layer_norm_elementwise_affine=False)
    | dict(_remove_final_layer_norm=True),
}
LARGE = dict(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10240)
COUNTS = {"OPT-125M": ({}, 125_239_296), "OPT-2.7B": (LARGE, 2_651_596_800)}


@pytest.mark.parametrize("case", CASES)
def test_opt(case, tmp_path):
    model = parity.randomise(OPTForCausalLM(OPTConfig(**SMALL, **CASES[case])))
    mask = np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    inputs = dict(input_ids=parity.tokens(2, 9, 50), attention_mask=mask)
    prompt = inputs | dict(attention_mask=mask[:, ::-1].copy())  # what is padded, on the left
    parity.check(model, inputs, tmp_path, where={"logits": mask}, writes=prompt)


def test_names_without_the_first_prefix():
    state = OPTForCausalLM(OPTConfig(**SMALL, **CASES["usual"])).state_dict()
    names = {name.removeprefix("model."): x.numpy() for name, x in state.items()}
    config = dict(model_type="opt") | SMALL | CASES["usual"]
    table = from_tensors(config, parity.Arrays(names)).variables["params"]["decoder"]["embed"]
    np.testing.assert_array_equal(table["position"], names["decoder.embed_positions.weight"])


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert count(dict(model_type="opt") | config) == expected


def test_unsupported_values_are_named():
    with pytest.raises(WeightsError, match="word_embed_proj_dim=512 is not supported, only 1024"):
        opt.fields(dict(hidden_size=1024, word_embed_proj_dim=512))
