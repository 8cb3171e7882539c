import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vlm_jax import sharding, trees

BIG = jax.ShapeDtypeStruct((1000, 800), jnp.float32)


def test_mesh_takes_the_rest_and_has_auto_axes():
    mesh = sharding.make_mesh({"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1, "context": 1}
    assert dict(sharding.make_mesh({"context": -1, "rules": []}).shape)["context"] == 8
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert dict(sharding.make_mesh().shape)["data"] == 8
    one = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(one.shape) == {"data": 1, "fsdp": 1, "tensor": 1, "context": 1}


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


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def specs(config, params):
    """Path to layout, as a tuple."""
    mesh = sharding.make_mesh(config)
    found = sharding.parameter_specs(mesh, trees.unflatten(params), config)
    return {path: tuple(placed.spec) for path, placed in found.items()}


FAMILIES = {
    "text/embedding/token/embedding": shape(1024, 512),
    "text/embedding/position": shape(1024, 512),
    "text/transformer/layers/self_attention/query/kernel": shape(4, 512, 512),
    "text/transformer/layers/self_attention/query/bias": shape(4, 512),
    "text/transformer/layers/self_attention/out/kernel": shape(4, 512, 512),
    "text/transformer/layers/mlp/up/kernel": shape(4, 512, 2048),
    "text/transformer/layers/mlp/down/kernel": shape(4, 2048, 512),
    "text/transformer/layers/mlp_norm/scale": shape(4, 512),
    "vision/stage4_block1/conv2/kernel": shape(3, 3, 256, 512),
    "vision/attention_pooling/attention/value/kernel": shape(512, 1024),
    "decoder/logits/kernel": shape(512, 1024),
    "fusion/pooled/kernel": shape(512, 1024),
}


def test_every_family_has_rules():
    assert set(specs({}, FAMILIES).values()) == {()}
    ahead, behind, last = (None, "fsdp"), (None, None, "fsdp"), (None, None, None, "fsdp")
    found = specs({"fsdp": 4}, FAMILIES)
    assert [found[path] for path in FAMILIES] == [
        *(ahead, ahead, ahead, (), ahead, behind, ahead, (), last, ahead, ahead, ahead)
    ]
    columns, rows, both = (None, "fsdp", "tensor"), (None, "tensor", "fsdp"), ("fsdp", "tensor")
    found = specs({"fsdp": 2, "tensor": 4}, FAMILIES)
    assert [found[path] for path in FAMILIES] == [
        *(("tensor", "fsdp"), ahead, columns, (), rows, columns, rows, ()),
        *((None, None, "fsdp", "tensor"), both, both, ahead),
    ]


def test_small_and_indivisible_parameters_stay_whole_and_scans_are_never_cut():
    params = {
        "big": shape(1000, 800),
        "odd": shape(1001, 804),
        "prime": shape(1009, 997),
        "small": shape(64, 64),
        "layers/kernel": shape(1024, 1023, 2),
        "logits/kernel": shape(512, 1023),
    }
    assert specs({"fsdp": 4}, params) == {
        "big": ("fsdp",),
        "odd": (None, "fsdp"),
        "prime": (),
        "small": (),
        "layers/kernel": (),
        "logits/kernel": ("fsdp",),
    }
    everything = {"fsdp": 2, "tensor": 2, "context": 2, "small": 0}
    assert specs(everything, {"small": shape(64, 64), "mlp/up/bias": shape(64)}) == {
        "small": (("fsdp", "context"),),
        "mlp/up/bias": ("tensor",),
    }


def test_the_first_own_rule_wins_and_counts_from_the_last_dimension():
    config = {"tensor": 2, "fsdp": 2, "small": 0}
    config["rules"] = [
        (".*mlp/up/kernel", ("fsdp", "tensor")),
        [".*kernel", [None, ["fsdp", "tensor"]]],
        ("head", ()),
    ]
    params = {"layers/mlp/up/kernel": shape(3, 4, 8), "b/kernel": shape(4, 8), "head": shape(8, 8)}
    assert specs(config, params) == {
        "layers/mlp/up/kernel": (None, "fsdp", "tensor"),
        "b/kernel": (None, ("fsdp", "tensor")),
        "head": (),
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("w", ("model", None))], "'model' is none of the axes"),
        ([("v", (None, None))], "selects no parameter"),
        ([("w", (None, None, None))], "has 3 axes, but 'w' has shape"),
        ([("w", ("tensor", None))], "dimension 0 is not divisible by tensor = 2"),
        ([("w", ()), ("w", ())], "catches nothing: rules before it caught 'w'"),
    ],
)
def test_rule_errors(rules, message):
    with pytest.raises(ValueError, match=message):
        specs({"tensor": 2, "rules": rules}, {"w": shape(3, 4)})


def test_nothing_big_is_replicated_by_oversight():
    big = {"table": shape(4099, 1031)}  # 16.1 MiB, both sides prime
    for config in ({"fsdp": 2}, {"tensor": 2}):
        with pytest.raises(ValueError, match=r"16 MiB of 'table', of shape \[4099, 1031\]"):
            specs(config, big)
    assert specs({"data": 8}, big) == {"table": ()}
    assert specs({"fsdp": 2, "rules": [("table", ())]}, big) == {"table": ()}
    assert specs({"tensor": 2}, {"any": shape(4100, 1031)}) == {"any": ("tensor",)}


def test_averages_moments_and_their_means_follow_their_parameter():
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2})
    kernel, path = shape(4, 512, 2048), "layers/mlp/up/kernel"
    nested = lambda leaf: trees.unflatten({path: leaf})
    moments = {
        "mu": nested(kernel),
        "row": nested(shape(4, 512)),
        "column": nested(shape(4, 2048)),
        "bytes": nested({"values": shape(4, 512, 2048, dtype=jnp.int8), "scale": shape(4, 512, 1)}),
        "none": nested(shape(1)),
        "count": shape(dtype=jnp.int32),
    }
    state = {"params": nested(kernel), "ema": nested(kernel), "optimizer": moments}
    found = trees.flatten(sharding.state_shardings(mesh, state))
    assert {key: tuple(value.spec) for key, value in found.items()} == {
        f"params/{path}": (None, "fsdp", "tensor"),
        f"ema/{path}": (None, "fsdp", "tensor"),
        f"optimizer/mu/{path}": (None, "fsdp", "tensor"),
        f"optimizer/row/{path}": (None, "fsdp"),
        f"optimizer/column/{path}": (None, "tensor"),
        f"optimizer/bytes/{path}/values": (None, "fsdp", "tensor"),
        f"optimizer/bytes/{path}/scale": (None, "fsdp"),
        f"optimizer/none/{path}": (),
        "optimizer/count": (),
    }
    offloaded = sharding.state_shardings(mesh, state, {"offload": True})
    host = {key for key, x in trees.flatten(offloaded).items() if x.memory_kind == "pinned_host"}
    assert host == {f"optimizer/mu/{path}", f"optimizer/bytes/{path}/values"}


def test_an_offloaded_state_is_fetched_computed_with_and_put_back():
    mesh = sharding.make_mesh({"fsdp": 8})
    state = {"params": {"w": BIG}, "optimizer": {"mu": {"w": BIG}, "count": shape()}}
    where = sharding.state_shardings(mesh, state, {"offload": True})["optimizer"]
    step = jax.jit(
        lambda memory: jax.tree.map(lambda x: x + 1, sharding.fetch(memory, where)),
        out_shardings=where,
    )
    memory = jax.tree.map(lambda x: jnp.zeros(x.shape), state["optimizer"])
    memory = step(jax.device_put(memory, where))
    assert memory["mu"]["w"].sharding.memory_kind == "pinned_host"
    assert memory["count"].sharding.memory_kind == "device"
    assert jnp.all(jax.device_get(memory["mu"]["w"]) == 1)
    assert memory["count"] == 1
    usual = sharding.state_shardings(mesh, state)["optimizer"]
    assert sharding.fetch(memory, usual) is memory


def test_matrices_are_cast_where_they_lie_before_they_are_gathered():
    mesh = sharding.make_mesh({"fsdp": 8})
    shapes = {"kernel": BIG, "scale": shape(4, 800), "bias": shape(800)}
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    cast = sharding.cast_for_gathering(mesh, shapes, {"gather_dtype": "bfloat16"})
    found = jax.jit(cast)(params)
    dtypes = {path: str(x.dtype) for path, x in found.items()}
    assert dtypes == {"kernel": "bfloat16", "scale": "float32", "bias": "float32"}
    assert tuple(found["kernel"].sharding.spec) == ("fsdp",)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(cast(p)["kernel"].astype(jnp.float32))))(params)
    assert gradient["kernel"].dtype == jnp.float32
    assert tuple(gradient["kernel"].sharding.spec) == ("fsdp",)
    assert sharding.cast_for_gathering(mesh, shapes)(params) is params


def test_the_table_says_what_each_rule_caught():
    config = {"fsdp": 2, "tensor": 4, "rules": [("fusion", ("tensor", None))]}
    params = trees.unflatten(FAMILIES)
    table = sharding.sharding_table(sharding.make_mesh(config), params, config)
    assert table.startswith("mesh: data=1 fsdp=2 tensor=4 context=1\n")
    rows = [re.split(r" {2,}", line) for line in table.splitlines()]
    assert ["fusion", "tensor", "1", "524,288", "2.00", "0.50"] in rows
    assert ["attention in", "- fsdp tensor", "1", "1,048,576", "4.00", "0.50"] in rows
    assert ["decoder/logits/kernel", "[512, 1024]", "fsdp tensor", "words out"] == next(
        row[:4] for row in rows if row[0] == "decoder/logits/kernel"
    )
    total = next(row for row in rows if row[0] == "total")
    assert total[1:3] == ["12", f"{trees.count_parameters(params):,}"]


def test_a_sharded_step_computes_what_one_device_computes():
    weights = np.random.default_rng(0).normal(size=(1000, 800)).astype(np.float32)
    batch = {"x": np.random.default_rng(1).normal(size=(16, 1000)).astype(np.float32)}

    def run(mesh):
        with jax.set_mesh(mesh):
            placed = sharding.state_shardings(mesh, {"params": {"w": BIG}})
            params = jax.device_put({"w": weights}, placed["params"])
            loss = lambda p, b: jnp.mean(jnp.square(b["x"] @ p["w"])) / 1000
            return jax.jit(jax.value_and_grad(loss))(params, sharding.shard_batch(mesh, batch))

    many, one = (
        run(sharding.make_mesh({"fsdp": 4})),
        run(sharding.make_mesh(devices=jax.devices()[:1])),
    )
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(many[1]["w"], one[1]["w"], atol=1e-6)
