"""Collective operations: kinds, axes, counts and bytes, of texts and of a real program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vlm_jax import sharding
from vlm_jax.plan import hlo
from vlm_jax.plan.collectives import collectives

MESH = {"data": 2, "fsdp": 4, "tensor": 1}


def of(line, mesh=MESH):
    found = collectives(hlo.parse(f"ENTRY %main () -> f32[] {{\n  {line}\n}}\n"), mesh)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", "fsdp"),
        ("[2,4]<=[8]", "fsdp"),
        ("{{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("[4,2]<=[2,4]T(1,0)", "data"),
        ("[1,8]<=[8]", "data+fsdp"),
        ("mesh['a'=2,'b'=4] {'b'}", "fsdp"),
        ("mesh['a'=2,'b'=4] {'a'}", "data"),
        ("mesh['a'=1,'b'=8] {'b'}", "data+fsdp"),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", "data"),
        ("{{0,1},{2,3},{4,5},{6,7}}", "?"),
    ],
)
def test_groups_are_axes(groups, axes):
    line = f"%r = f32[256]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%a"
    assert of(line).axes == axes


def test_each_kind_moves_its_bytes():
    groups = "channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}"
    assert of(f"%r = f32[256]{{0}} all-reduce(%x), {groups}").bytes == 2 * 1024 * 3 / 4
    assert of(f"%r = f32[256]{{0}} all-gather(%x), {groups}").bytes == 1024 * 3 / 4
    assert of(f"%r = bf16[64]{{0}} reduce-scatter(%x), {groups}").bytes == 128 * 3
    started = f"%r = (f32[64]{{0}}, f32[256]{{0}}) all-gather-start(%x), {groups}"
    assert of(started) == of(f"%r = f32[256]{{0}} all-gather(%x), {groups}")
    pairs = "channel_id=1, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}"
    moved = of(f"%r = f32[256]{{0}} collective-permute(%x), {pairs}")
    assert (moved.axes, moved.bytes) == ("data", 1024)


SPREAD = """%start (a: f32[64]) -> f32[256] {
  ROOT %g1 = f32[256]{0} all-gather(%a), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%middle (a: f32[64]) -> f32[256] {
  ROOT %g2 = f32[256]{0} all-gather(%a), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%scatter (a: f32[256]) -> f32[64] {
  %r = f32[256]{0} all-reduce(%a), channel_id=8, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %s = f32[64]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={64}
}

ENTRY %main (x: f32[64]) -> f32[] {
  %f1 = f32[256]{0} fusion(%x), kind=kCustom, calls=%start
  %f2 = f32[256]{0} fusion(%x), kind=kCustom, calls=%middle
  ROOT %f3 = f32[64]{0} fusion(%f2), kind=kCustom, calls=%scatter
}
"""


def test_one_operation_spread_over_fusions_counts_once_and_a_sliced_sum_is_a_scatter():
    found = {one.kind: one for one in collectives(hlo.parse(SPREAD), MESH)}
    assert found.keys() == {"all-gather", "reduce-scatter"}
    assert found["all-gather"].count == 1
    assert found["reduce-scatter"].bytes == 256 * 3


def test_a_real_program_with_a_loop():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4}, jax.devices()[:8])
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

    def looped(weights, x):
        rows = place(("data", "fsdp"))
        layer = lambda x, w: (jax.lax.with_sharding_constraint(x @ w, rows), None)
        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=place(None, "fsdp"))
    x = jax.ShapeDtypeStruct((4096, 64), jnp.float32, sharding=place(("data", "fsdp")))
    with jax.set_mesh(mesh):
        text = jax.jit(looped).lower(weights, x).compile().as_text()
    found = collectives(hlo.parse(text), dict(mesh.shape))
    weights_moved = [one for one in found if (one.kind, one.axes) == ("all-gather", "fsdp")]
    assert [one.bytes for one in weights_moved] == [5 * 64 * 64 * 4 * 3 / 4], found
    assert any(one.kind == "all-reduce" and "data" in one.axes for one in found)
