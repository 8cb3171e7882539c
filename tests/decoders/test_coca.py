"""What CoCa's decoder has beyond the contract: a text tower, and two kinds of blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders.coca import PAPER, RELEASED, CoCaDecoder
from vlm_jax.types import Features

FIELDS = dict(vocab=11, width=8, max_length=6, layers=2, heads=2, mlp_width=12)
FIELDS |= dict(fused_layers=1, fused_heads=4, fused_mlp_width=10)
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 1, 10)
REAL = jnp.ones((2, 6), bool)
MEMORY = Features(jax.random.normal(jax.random.key(1), (2, 3, 5)), jnp.ones((2, 3), bool))


@pytest.fixture(scope="module")
def decoder():
    """A decoder and variables that are all noise."""
    module = CoCaDecoder(**FIELDS)

    def both(module):
        return module(TOKENS, MEMORY), module.encode(TOKENS, REAL)

    shapes = jax.eval_shape(lambda k: module.init(k, method=both), jax.random.key(2))
    rng = np.random.default_rng(3)
    return module, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_the_class_token_reads_the_whole_text_and_no_token_reads_it(decoder):
    module, variables = decoder
    encode = lambda v, tokens, real: module.apply(v, tokens, real, method="encode")
    found = encode(variables, TOKENS, REAL)
    for place in range(6):
        changed = encode(variables, TOKENS.at[:, place].add(1), REAL)
        assert (jnp.abs(changed.pooled - found.pooled).max(axis=-1) > 1e-4).all()
    params = variables["params"]
    other = {"params": params | {"class_token": params["class_token"][::-1]}}
    changed = encode(other, TOKENS, REAL)
    np.testing.assert_array_equal(changed.tokens, found.tokens)
    assert (jnp.abs(changed.pooled - found.pooled).max(axis=-1) > 1e-4).all()


def test_the_class_token_sees_the_first_padding_and_not_the_rest(decoder):
    module, variables = decoder
    real = REAL.at[:, 4:].set(False)
    encode = lambda tokens: module.apply(variables, tokens, real, method="encode").pooled
    expected = encode(TOKENS)
    assert (jnp.abs(encode(TOKENS.at[:, 4].add(1)) - expected).max(axis=-1) > 1e-4).all()
    np.testing.assert_allclose(encode(TOKENS.at[:, 5].add(1)), expected, atol=1e-6)


def test_parts_of_both_kinds_of_blocks():
    for parts, mlps in ((RELEASED, {"mlp", "cross_mlp"}), (PAPER, {"mlp"})):
        module = CoCaDecoder(**FIELDS, parts=parts)
        shapes = jax.eval_shape(module.init, jax.random.key(0), TOKENS, MEMORY)
        layers = shapes["params"]["fused"]["layers"]
        assert {name for name in layers if name in ("mlp", "cross_mlp")} == mlps
        assert "self_attention" in layers
        assert "cross_attention" in layers
        assert "cross_attention" not in shapes["params"]["unimodal"]["layers"]


def test_long_texts_are_explained(decoder):
    module, variables = decoder
    with pytest.raises(ValueError, match="max_length=6"):
        module.apply(variables, jnp.ones((2, 9), jnp.int32), MEMORY)
