"""Scores computed later are those computed at once, for every kind of output layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.decoders import CausalLM
from vlm_jax.losses import blocked_cross_entropy, masked_cross_entropy

SIZE = dict(vocab=40, width=16, layers=1, heads=2, mlp_width=24, max_length=16)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 40, (2, 5)), jnp.int32)
MASK = jnp.ones(TOKENS.shape, bool).at[1, 3:].set(False)


@functools.cache
def variables(**options):
    decoder = CausalLM(**SIZE, memory="prepend", **options)
    found = jax.jit(lambda key: decoder.init(key, TOKENS, None))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return decoder, jax.tree.unflatten(tree, drawn)


OPTIONS = [
    dict(),
    dict(logits_bias=True, logits_softcap=2.0, logits_scale=0.5),
    dict(tied=False),
    dict(tied=False, logits_bias=False, extra_vocab=3),
    dict(extra_vocab=3, logits_transform=True),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_scores_computed_later_are_those_computed_at_once(options):
    decoder, found = variables(**options)

    def loss(params, later):
        scores, _ = decoder.apply(params, TOKENS, None, mask=MASK, later=later)
        if later:
            return blocked_cross_entropy(scores, TOKENS, MASK, block=7).sum(), scores.logits()
        return masked_cross_entropy(scores, TOKENS, MASK).sum(), scores

    (late, now) = (
        jax.jit(jax.value_and_grad(functools.partial(loss, later=later), has_aux=True))(found)
        for later in (True, False)
    )
    for ours, true in zip(jax.tree.leaves(late), jax.tree.leaves(now), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-5 * np.abs(true).max() + 1e-7)


@pytest.mark.parametrize("options", OPTIONS[-2:])
def test_parameters_are_there_whoever_asks_first(options):
    decoder, found = variables(**options)
    init = functools.partial(decoder.init, jax.random.key(0), TOKENS, None)
    late = jax.eval_shape(lambda: init(later=True))
    assert jax.tree.map(jnp.shape, late) == jax.tree.map(jnp.shape, found)


def test_decoders_that_compute_all_scores_at_once_are_not_asked_for_less():
    asks = {"captioning": "unembed"}
    with pytest.raises(models.InvalidModel, match="drop `blocked` from the task"):
        models.check({"vision": {"name": "vgg"}, "decoder": {"name": "lstm_merge"}}, asks)
    models.check({"vision": {"name": "vit"}, "decoder": {"name": "causal_lm"}}, asks)
