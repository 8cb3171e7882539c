import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.remat import POLICIES
from vlm_jax.layers.transformer import Transformer

FIELDS = {"layers": 2, "heads": 2, "mlp_width": 12}


def program(kept):
    """The jaxpr of a stack's gradient, and the gradient's compiled value."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    stack = Transformer(**FIELDS, remat=kept)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)
    weights = rng.normal(size=x.shape)
    loss = lambda params: jnp.sum(stack.apply(params, x)[0] * weights)
    traced = jax.jit(jax.grad(loss)).trace(params)
    return str(traced.jaxpr).count("dot_general"), traced.lower().compile()(params)


def test_policies_recompute_less_and_less_and_change_nothing():
    counts, gradients = zip(*(program(kept) for kept in (True, *POLICIES, False)), strict=True)
    assert counts[0] == counts[1] > counts[3] > counts[2] == counts[4] == counts[5]
    known = jax.tree_util.tree_leaves_with_path(gradients[0])
    for found in gradients[1:]:
        for a, (path, b) in zip(jax.tree.leaves(found), known, strict=True):
            # Attention does not depend on the biases of keys: their gradients are but rounding.
            nothing = "['key']['bias']" in jax.tree_util.keystr(path)
            scale = 1.0 if nothing else jnp.abs(b).max()
            assert jnp.allclose(a, b, rtol=1e-4, atol=1e-5 * scale), path


def test_an_unknown_policy_is_refused():
    with pytest.raises(KeyError, match="dotz"):
        Transformer(**FIELDS, remat="dotz").init(jax.random.key(0), jnp.ones((1, 2, 8)))
