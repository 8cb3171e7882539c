import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vlm_jax import sharding
from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain

EVERYTHING = {"data": 2, "tensor": 2, "context": 2}


def placed(mesh, shape, *axes):
    """The layout that a constraint gives to zeros of a shape."""
    with jax.set_mesh(sharding.make_mesh(mesh)):
        return jax.jit(lambda x: constrain(x, *axes))(jnp.zeros(shape)).sharding.spec


@pytest.mark.parametrize(
    ("mesh", "shape", "axes", "spec"),
    [
        ({"data": 2, "fsdp": 4}, (8, 6, 4), (BATCH, LENGTH), (("data", "fsdp"),)),
        ({"fsdp": -1}, (8, 6, 4), (BATCH, LENGTH), ("fsdp",)),
        (EVERYTHING, (8, 6, 4), (BATCH, LENGTH), ("data", "context")),
        (EVERYTHING, (8, 6, 4), (BATCH, LENGTH, SPLIT), ("data", "context", "tensor")),
        (EVERYTHING, (8, 6, 4, 3), (BATCH, None, SPLIT), ("data", None, "tensor")),
        (EVERYTHING, (8, 5, 3), (BATCH, LENGTH, SPLIT), ("data",)),  # 5 and 3 stay whole
        (EVERYTHING, (8,), (BATCH,), ("data",)),
    ],
)
def test_dimensions_go_where_they_are_told(mesh, shape, axes, spec):
    assert placed(mesh, shape, *axes) == PartitionSpec(*spec)


def count(mesh, shape, *axes):
    """How many constraints reach the program."""
    function = jax.jit(lambda x: constrain(x, *axes) * 2)
    lower = lambda: function.lower(jnp.zeros(shape)).as_text().count("sdy.sharding_constraint")
    if mesh is None:
        return lower()
    with jax.set_mesh(mesh):
        return lower()


def test_nothing_happens_where_there_is_nothing_to_say():
    one = sharding.make_mesh(devices=jax.devices()[:1])
    assert count(None, (8, 4), BATCH) == 0
    assert count(one, (8, 4), BATCH) == 0
    assert count(sharding.make_mesh(), (8, 4), BATCH) == 1
    assert count(sharding.make_mesh(), (1, 4), BATCH) == 0  # a single row on eight devices
    assert count(sharding.make_mesh(), (12, 4), BATCH) == 0


def test_constraints_hold_under_scan_remat_grad_and_vmap():
    mesh = sharding.make_mesh({"data": 4, "context": 2})

    def loss(w, x):
        layer = jax.checkpoint(lambda x, w: (constrain(jnp.tanh(x @ w), BATCH, LENGTH), None))
        return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    w, x = jnp.full((3, 4, 4), 0.1), jnp.arange(8 * 6 * 4.0).reshape(8, 6, 4) / 100
    expected = jax.grad(loss)(w, x)
    with jax.set_mesh(mesh):
        assert jnp.allclose(jax.jit(jax.grad(loss))(w, x), expected, rtol=1e-5)
        many = jax.jit(jax.vmap(loss, in_axes=(None, 0)))(w, x[None])
    assert jnp.allclose(many[0], loss(w, x), rtol=1e-5)


def test_axes_that_are_manual_are_left_alone():
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    rows = PartitionSpec(("data", "fsdp"))
    double = jax.shard_map(lambda x: constrain(x, BATCH) * 2, in_specs=rows, out_specs=rows)
    part = jax.shard_map(
        lambda x: constrain(x, BATCH) * 2,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
        axis_names={"data"},
    )
    with jax.set_mesh(mesh):
        for function in (double, part):
            assert jnp.array_equal(jax.jit(function)(jnp.arange(16.0)), 2 * jnp.arange(16.0))
