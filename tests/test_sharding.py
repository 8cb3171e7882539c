import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vlm_jax import sharding

BIG = jax.ShapeDtypeStruct((1000, 800), jnp.float32)


def test_mesh_takes_the_rest_and_has_auto_axes():
    mesh = sharding.make_mesh({"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert dict(sharding.make_mesh().shape)["data"] == 8
    one = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(one.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"fsdp": 3}, ValueError, "does not fit 8 devices"),
        ({"data": 2, "fsdp": 2}, ValueError, "does not fit 8 devices"),
        ({"data": -1, "fsdp": -1}, ValueError, "at most one of them is -1"),
        ({"data": 0}, ValueError, "sizes are positive"),
        ({"modle": 2}, TypeError, "unknown key 'modle' in config.mesh"),
    ],
)
def test_mesh_errors(config, error, message):
    with pytest.raises(error, match=message):
        sharding.make_mesh(config)


@pytest.mark.parametrize("config", [{}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_shard_batch_keeps_every_row_in_order(config):
    mesh = sharding.make_mesh(config)
    batch = {"image": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3), "valid": np.ones(16, bool)}
    placed = sharding.shard_batch(mesh, batch)
    np.testing.assert_array_equal(placed["image"], batch["image"])
    rows = 16 // sharding.batch_shards(mesh)
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(rows, 3)}
    assert placed["valid"].dtype == bool


def test_an_indivisible_batch_is_refused_with_sizes_that_work():
    mesh = sharding.make_mesh()
    with pytest.raises(ValueError, match=r"batch_size=12 is not divisible by the 8 .*use 8 or 16"):
        sharding.shard_batch(mesh, {"x": np.zeros((12, 2))})
    with pytest.raises(ValueError, match=r"use 8$"):
        sharding.check_batch_size(mesh, 3)


def specs(mesh, shapes, rules=()):
    return {k: s.spec for k, s in sharding.state_shardings(mesh, shapes, rules).items()}


def test_default_replicates_without_fsdp_and_splits_big_tensors_with_it():
    shapes = {
        "big": BIG,
        "odd": jax.ShapeDtypeStruct((1001, 804), jnp.float32),
        "prime": jax.ShapeDtypeStruct((1009, 997), jnp.float32),
        "small": jax.ShapeDtypeStruct((64, 64), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    assert set(specs(sharding.make_mesh(), shapes).values()) == {PartitionSpec()}
    assert specs(sharding.make_mesh({"fsdp": 4}), shapes) == {
        "big": PartitionSpec("fsdp"),
        "odd": PartitionSpec(None, "fsdp"),
        "prime": PartitionSpec(),
        "small": PartitionSpec(),
        "step": PartitionSpec(),
    }


def test_rules_hold_for_moments_of_the_same_rank_only():
    mesh = sharding.make_mesh({"tensor": 2, "fsdp": 2})
    shapes = {
        "params": {"mlp": {"kernel": BIG}},
        "mu": {"mlp": {"kernel": BIG}},
        "factored": {"mlp": {"kernel": jax.ShapeDtypeStruct((800,), jnp.float32)}},
    }
    rules = [(".*mlp/kernel", ("fsdp", "tensor")), [".*kernel", [None, "tensor"]]]
    placed = sharding.state_shardings(mesh, shapes, rules)
    assert placed["params"]["mlp"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert placed["mu"]["mlp"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert placed["factored"]["mlp"]["kernel"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("w", ("model", None)), "'model' is none of the axes"),
        (("v", (None, None)), "selects no parameter"),
        (("w", (None,)), "has 1 axes, but 'w' has shape"),
        (("w", ("tensor", None)), "dimension 0 is not divisible by tensor=2"),
    ],
)
def test_rule_errors(rule, message):
    mesh = sharding.make_mesh({"tensor": 2})
    with pytest.raises(ValueError, match=message):
        sharding.state_shardings(mesh, {"w": jax.ShapeDtypeStruct((3, 4), jnp.float32)}, [rule])


def test_a_sharded_step_computes_what_one_device_computes():
    weights = np.random.default_rng(0).normal(size=(1000, 800)).astype(np.float32)
    batch = {"x": np.random.default_rng(1).normal(size=(16, 1000)).astype(np.float32)}

    def run(mesh):
        with jax.set_mesh(mesh):
            placed = sharding.state_shardings(mesh, {"w": BIG})
            params = jax.device_put({"w": weights}, placed)
            loss = lambda p, b: jnp.mean(jnp.square(b["x"] @ p["w"])) / 1000
            return jax.jit(jax.value_and_grad(loss))(params, sharding.shard_batch(mesh, batch))

    many, one = (
        run(sharding.make_mesh({"fsdp": 4})),
        run(sharding.make_mesh(devices=jax.devices()[:1])),
    )
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(many[1]["w"], one[1]["w"], atol=1e-6)
