import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlm_jax import trees
from vlm_jax.compact import BITS, compact, rounded

SHAPE = (64, 64)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_rounding_goes_to_a_neighbour_and_has_the_right_mean(kind):
    numbers = jnp.array([1.0, -1.1, 3.14159, 0.3, -17.3])
    many = jnp.broadcast_to(numbers[:, None], (5, 20_000))
    found = np.asarray(rounded(many, kind, jax.random.key(1)).astype(jnp.float32))
    step = 2.0 ** -jnp.finfo(kind).nmant
    assert np.all(found[0] == 1.0)  # what can be represented stays as it is
    assert np.all(np.abs(found / numbers[:, None] - 1) <= step)
    np.testing.assert_allclose(found.mean(axis=1), numbers, rtol=step / 30)
    assert [len(np.unique(row)) for row in found] == [1, 2, 2, 2, 2]
    strange = rounded(jnp.array([jnp.inf, jnp.nan, 0.0]), jnp.bfloat16, jax.random.key(0))
    assert [str(x) for x in strange] == ["inf", "nan", "0"]


def losses(kind, steps=150):
    """Of a least-squares problem under Adam, and the bytes and paths of the state."""
    rule = optax.scale_by_adam(b2=0.99)
    rule = compact(rule, kind) if kind else rule
    optimizer = optax.chain(rule, optax.scale(-0.03))
    x, y = jax.random.normal(jax.random.key(0), (2, 32, *SHAPE[:1]))
    loss = lambda p: jnp.mean((x @ p["kernel"] + p["bias"][None] - y) ** 2)
    params = {"kernel": jnp.zeros(SHAPE), "bias": jnp.zeros(64)}

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    state = optimizer.init(params)
    run = jax.jit(lambda start: jax.lax.scan(step, start, length=steps))
    return np.asarray(run((params, state))[1]), state


def test_few_bits_train_as_well():
    exact, state = losses(None)
    whole = trees.count_bytes(state)
    for kind, bits in BITS.items():
        found, state = losses(kind)
        assert found[-1] < 0.05 * found[0]
        assert abs(found[-1] - exact[-1]) < 0.03 * exact[0]
        assert trees.count_bytes(state) < whole * bits / 32 + 64 * 4 * 5
        paths = trees.flatten(state)
        dtypes = {path: str(x.dtype) for path, x in paths.items() if path.endswith("bias")}
        assert set(dtypes.values()) == {"float32"}  # too small to be worth it


def test_squares_never_become_zero():
    state = optax.ScaleByAdamState(
        jnp.int32(0), {"k": jnp.zeros(SHAPE)}, {"k": jnp.full(SHAPE, 1e-20).at[:, 0].set(1.0)}
    )
    rule = optax.GradientTransformation(lambda _: state, lambda u, s, p: (s.nu, s))
    short = compact(rule, "float8")
    plain, _ = short.update(None, short.init(None))
    assert np.all(np.asarray(plain["k"]) > 0)
    np.testing.assert_allclose(plain["k"][:, 0], 1.0, rtol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'float9'; did you mean 'float8'"):
        compact(optax.scale_by_adam(), "float9")
