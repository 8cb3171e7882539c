import jax
import jax.numpy as jnp
import pytest

from vlm_jax.layers.remat import POLICIES
from vlm_jax.layers.transformer import Transformer

FIELDS = {"layers": 2, "heads": 2, "mlp_width": 12}


def program(kept):
    """The jaxpr of a stack's gradient, and the gradient's compiled value."""
    x = jnp.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)
    stack = Transformer(**FIELDS, remat=kept)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.sin(jnp.arange(s.size, dtype=s.dtype)), shapes)
    params = jax.tree.map(lambda leaf, s: leaf.reshape(s.shape), params, shapes)
    loss = lambda params: jnp.sum(stack.apply(params, x)[0] ** 2)
    traced = jax.jit(jax.grad(loss)).trace(params)
    return str(traced.jaxpr).count("dot_general"), traced.lower().compile()(params)


def test_policies_recompute_less_and_less_and_change_nothing():
    counts, gradients = zip(*(program(kept) for kept in (True, *POLICIES, False)), strict=True)
    assert counts[0] == counts[1] > counts[3] > counts[2] == counts[4] == counts[5]
    # Some gradients, such as those of the biases of keys, are 0 but for rounding.
    largest = max(jnp.abs(b).max() for b in jax.tree.leaves(gradients[0]))
    for found in gradients[1:]:
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradients[0]), strict=True):
            assert jnp.allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_an_unknown_policy_is_refused():
    with pytest.raises(KeyError, match="dotz"):
        Transformer(**FIELDS, remat="dotz").init(jax.random.key(0), jnp.ones((1, 2, 8)))
