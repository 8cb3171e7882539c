import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.remat import POLICIES
from vlm_jax.layers.transformer import Transformer

FIELDS = {"layers": 2, "heads": 2, "mlp_width": 24}


def program(kept, **fields):
    """The jaxpr of a stack's gradient as text, and the gradient's compiled value."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    stack = Transformer(**FIELDS, **fields, remat=kept)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)
    weights = rng.normal(size=x.shape)
    loss = lambda params: jnp.sum(stack.apply(params, x)[0] * weights)
    traced = jax.jit(jax.grad(loss)).trace(params)
    return str(traced.jaxpr), traced.lower().compile()(params)


def same(found, known):
    """Whether two gradients are equal up to rounding."""
    known = jax.tree_util.tree_leaves_with_path(known)
    for a, (path, b) in zip(jax.tree.leaves(found), known, strict=True):
        # Attention does not depend on the biases of keys: their gradients are but rounding.
        nothing = "['key']['bias']" in jax.tree_util.keystr(path)
        scale = 1.0 if nothing else jnp.abs(b).max()
        assert jnp.allclose(a, b, rtol=1e-4, atol=1e-5 * scale), path


def test_policies_recompute_less_and_less_and_change_nothing():
    kept = [True, *(name for name in POLICIES if name != "sliced"), False]
    programs, gradients = zip(*map(program, kept), strict=True)
    counts = [text.count("dot_general") for text in programs]
    assert counts[0] == counts[1] > counts[3] > counts[2] == counts[4] == counts[5]
    for found in gradients[1:]:
        same(found, gradients[0])


@pytest.mark.parametrize("gated", [False, True])
def test_sliced_mlps_make_no_wide_array_and_change_nothing(gated):
    (plain, known), (sliced, found) = (
        program(kept, mlp={"gated": gated}, activation="silu") for kept in (True, "sliced")
    )
    assert "f32[2,5,24]" in plain and "f32[2,5,24]" not in sliced
    same(found, known)


def test_an_unknown_policy_is_refused():
    with pytest.raises(KeyError, match="dotz"):
        Transformer(**FIELDS, remat="dotz").init(jax.random.key(0), jnp.ones((1, 2, 8)))
