"""Plans of tiny configs: for fake CPU devices, and for a TPU slice by its own compiler."""

import json
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import jax
import pytest

from tests import tiny
from vlm_jax import modes, sharding
from vlm_jax.plan import compiling, hlo, planner, show, synthetic, variants
from vlm_jax.plan.memory import Memory

MESH = {"fsdp": 4, "small": 0}
PARTS = 8
"""Residual streams, hidden units, queries, keys and values of two stacks, at the least."""


def config(**changes):
    given = tiny.captioner(**{"mesh": MESH} | changes)
    for part in ("vision", "decoder"):
        given["model"][part] = {**given["model"][part], "dropout": 0.0, "layers": 3}
    test = {"task": "captioning", "options": {"beams": 2}, "data": given["data"]["train"]}
    return given | {"evals": {"captions": test}, "optimizer": {"name": "adamw", "learning_rate": 1}}


@lru_cache
def plan(topology, remat=False):
    given = config()
    for part in ("vision", "decoder"):
        given["model"][part]["remat"] = remat
    return planner.make_plan(given, topology, evals=not remat)


def test_a_plan_for_fake_devices_knows_everything():
    found = plan("cpu:8")
    assert found.fits
    assert found.mesh == {"data": 2, "fsdp": 4, "tensor": 1, "context": 1}
    assert (found.chips, found.batch_size, found.total_steps) == (8, 8, 6)
    assert found.trained == found.parameters > found.per_device >= found.parameters / 4
    moments = 3 * 4 * found.per_device / 2**30
    assert moments < found.memory.arguments < 2 * moments
    assert found.evals.keys() == {"captions"}
    assert found.constraints > 0
    assert not found.warnings
    assert found.roofline.seconds > 0


def test_evaluations_that_differ_in_their_data_alone_are_compiled_once(monkeypatch):
    given = config()
    one = given["evals"]["captions"]
    given["evals"] = {"seen": one, "unseen": one, "wider": one | {"options": {"beams": 3}}}
    mesh = sharding.make_mesh(given["mesh"], planner.devices_of("cpu:8"))
    setup, program, _ = planner._programs(synthetic.stand_in(given), mesh)
    compiled, memory = [], Memory(1.0, 2.0, 3.0, 0.0)
    made = SimpleNamespace(memory=memory)
    monkeypatch.setattr(planner, "compile_for", lambda *given: compiled.append(given) or made)
    found = planner._evaluations(setup, program)
    assert found.keys() == {"seen", "unseen", "wider"} and len(compiled) == 2
    assert found["seen"] == found["unseen"] and found["seen"].arguments > 1


def test_the_compiler_of_tpus_agrees_about_what_a_chip_holds():
    here, there = plan("cpu:8"), plan("v5e:2x4")
    assert there.per_device == here.per_device
    assert there.model_flops == here.model_flops
    assert there.limit == 15.75
    assert here.memory.arguments <= there.memory.arguments < 0.01  # padded to tiles there
    for found in (here, there):
        assert any("fsdp" in one.axes and one.bytes > 0 for one in found.collectives)


def test_recomputed_operations_are_counted_apart():
    plain, anew = plan("cpu:8"), plan("cpu:8", remat=True)
    assert plain.program_flops == plain.model_flops == anew.model_flops
    assert 1.1 * anew.model_flops < anew.program_flops < 1.34 * anew.model_flops


def test_json_holds_what_programs_ask_for():
    found = json.loads(json.dumps(show.as_json(plan("v5e:2x4"))))
    wanted = {
        "fits", "arguments_gib", "temporaries_gib", "hbm_gib", "model_flops", "collective_bytes",
        "predicted_step_seconds", "mfu_ceiling", "compile_seconds",
    }  # fmt: skip
    assert wanted <= found.keys()
    assert found["fits"] is True
    assert 0 < found["mfu_ceiling"] < 1
    assert found["collective_bytes"] == sum(one["bytes"] for one in found["collectives"])


def test_text_names_every_part():
    text = show.as_text(plan("cpu:8"))
    for word in (
        "mesh data 2 x fsdp 4",
        "rule ",
        "eval captions",
        "MFU at most",
        "chip hours",
        "fits  ",
    ):
        assert word in text


def test_activations_are_constrained_under_set_mesh_and_a_rule_for_parameters_is_none():
    counts = []
    for layout in (MESH, {"data": 8}, {"fsdp": 8, "small": 0}):
        mesh = sharding.make_mesh(layout, jax.devices()[:8])
        _, program, batch = planner._programs(synthetic.stand_in(config(mesh=layout)), mesh)
        state = program.placed
        with jax.set_mesh(mesh):
            text = program.jit_update().lower(state, batch).as_text()
        counts.append(compiling.count_constraints(text))
    text = program.jit_update().lower(state, batch).as_text()
    assert min(counts) >= 2 * PARTS  # forward and backward
    assert len(set(counts)) == 1
    assert compiling.count_constraints(text) == 0
    one = '%0 = sdy.sharding_constraint %a <@mesh, [{}, {}, {"fsdp"}]> : tensor<3x8x8xf32>'
    assert compiling.count_constraints(one) == 0


def test_the_mode_says_by_its_exit_code_whether_it_fits(monkeypatch, capsys):
    fits = plan("cpu:8")
    large = replace(fits, memory=Memory(99.0, 1.0, 0.0))
    monkeypatch.setattr(variants, "nearest", lambda given, made: ("remat=True", fits))
    for made, code in ((fits, 0), (large, 1)):
        monkeypatch.setattr(planner, "make_plan", lambda given, topology, made=made: made)
        assert modes.plan(config(), "", {"topology": "cpu:8", "json": True}) == code
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last["fits"] is (code == 0)
        assert ("nearest" in last) is (code == 1)
    assert last["nearest"]["changed"] == "remat=True"
    with pytest.raises(ValueError, match="needs --topology"):
        modes.plan(config(), "", {})


def test_without_constraints_the_plan_warns():
    mesh = sharding.make_mesh(None, jax.devices()[:8])
    step = planner.Compiled(Memory(0.1, 0.1, 0.0), 1.0, 0, None)
    assert "no activation is told where to live" in planner._warnings(step, mesh, 512, {})[0]


def test_arrays_with_the_rows_of_all_chips_are_named():
    mesh = sharding.make_mesh(None, jax.devices()[:8])
    line = "%a = bf16[512,256,4304]{2,1,0} add(%p, %p)"
    program = hlo.parse(f"ENTRY %main (p: f32[]) -> f32[] {{\n  {line}\n}}")
    step = planner.Compiled(Memory(0.1, 0.1, 0.0), 1.0, 9, program)
    (warning,) = planner._warnings(step, mesh, 512, {"w": jax.ShapeDtypeStruct((768,), "f4")})
    assert "bf16[512, 256, 4304] of 1.05 GiB with all 512 rows" in warning
    as_wide = {"w": jax.ShapeDtypeStruct((768, 512), "f4")}  # activations are as wide
    assert not planner._warnings(step, mesh, 512, as_wide)


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v5e:9x9", "libtpu says"),
        ("v5e", "write it like v5e:8x8"),
        ("cpu:99", "has 8 CPU devices"),
        ("h100:8", "unknown chip"),
    ],
)
def test_topologies_that_do_not_exist(topology, sentence):
    with pytest.raises(ValueError, match=sentence):
        planner.make_plan(config(), topology)


def test_the_length_of_the_stand_in_s_epochs_fits_every_schedule():
    given = config(schedule={"name": "cosine", "warmup_steps": 2000}, total_epochs=32)
    given.pop("total_steps")
    mesh = sharding.make_mesh({"data": 8}, jax.devices()[:8])
    _, program, _ = planner._programs(synthetic.stand_in(given), mesh)
    assert program.total == 32 * planner.STEPS


def test_mistakes_in_a_config_are_found_first():
    with pytest.raises(ValueError, match="batch_size=9 is not divisible"):
        planner.make_plan(config(batch_size=9), "cpu:8")
