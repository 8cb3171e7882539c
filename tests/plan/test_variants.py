"""What is proposed for a config that does not fit."""

from dataclasses import replace

import pytest

from tests import tiny
from vlm_jax.plan import show, variants
from vlm_jax.plan.chips import chip_of
from vlm_jax.plan.memory import Memory
from vlm_jax.plan.planner import Plan

CONFIG = tiny.captioner(batch_size=64)


def needing(memory, batch_size=64, fsdp=1):
    """A plan for eight v5e chips."""
    numbers = dict(parameters=1, trained=1, per_device=1, model_flops=1.0, program_flops=1.0)
    return Plan(
        topology="v5e:2x4",
        chip=chip_of("v5e:2x4"),
        mesh={"data": 8 // fsdp, "fsdp": fsdp, "tensor": 1},
        devices=8,
        batch_size=batch_size,
        memory=memory,
        collectives=(),
        traffic=0.0,
        roofline=None,
        constraints=1,
        compile_seconds=1.0,
        total_steps=None,
        layout="",
        **numbers,
    )


@pytest.fixture
def compiled(monkeypatch):
    """GiB by a formula, and which variants were compiled."""
    asked = []

    def install(arguments, per_row, anew=0.25):
        def make_plan(config, topology, evals):
            spread = config.get("mesh", {}).get("fsdp") == -1
            remat = config["model"]["vision"].get("remat", False)
            rows = config["batch_size"]
            asked.append((bool(remat), spread, rows))
            temporaries = per_row * rows * (anew if remat else 1)
            memory = Memory(arguments / (8 if spread else 1), temporaries, 0.0)
            return needing(memory, rows, 8 if spread else 1)

        monkeypatch.setattr(variants, "make_plan", make_plan)
        first = make_plan(CONFIG, "v5e:2x4", False)
        asked.clear()
        return first, asked

    return install


def test_recomputing_comes_first(compiled):
    first, asked = compiled(arguments=4, per_row=0.5)
    changed, plan = variants.nearest(CONFIG, first)
    assert (changed, asked) == ("remat=True", [(True, False, 64)])
    assert plan.fits


def test_a_state_that_is_too_large_is_spread_before_anything_else(compiled):
    first, asked = compiled(arguments=40, per_row=0.01)
    changed, _ = variants.nearest(CONFIG, first)
    assert (changed, asked) == ("mesh.fsdp=-1", [(False, True, 64)])


def test_the_batch_shrinks_last_and_as_far_as_needed(compiled):
    first, asked = compiled(arguments=40, per_row=2.0)
    changed, plan = variants.nearest(CONFIG, first)
    assert changed == "remat=True, mesh.fsdp=-1, batch_size=16"
    assert plan.batch_size == 16
    assert (True, True, 32) not in asked  # known beforehand to be too large
    assert "nearest       remat=True, mesh.fsdp=-1, batch_size=16: 13 GiB" in show.advice(
        (changed, plan)
    )


def test_when_nothing_fits_it_says_so(compiled):
    first, _ = compiled(arguments=400, per_row=2.0)
    assert variants.nearest(CONFIG, first) is None
    assert "not even one example per device" in show.advice(None)


def test_a_plan_that_does_not_fit_has_no_speed():
    plan = needing(Memory(10.0, 10.0, 0.0))
    assert not plan.fits
    assert plan.mfu_ceiling is None
    assert "fits          NO" in show.as_text(plan)
    assert show.as_json(plan)["predicted_step_seconds"] is None


def test_an_evaluation_that_does_not_fit_counts():
    plan = needing(Memory(1.0, 1.0, 0.0))
    assert plan.fits
    assert not replace(plan, evals={"val": Memory(1.0, 20.0, 0.0)}).fits
