"""Bytes between a chip and its memory: loops, slices, updates in place, other memories."""

import pytest

from vlm_jax.plan import hlo
from vlm_jax.plan.traffic import largest_with, traffic

SLICED = """%slice (stack: f32[27,64], i: s32[]) -> f32[64] {
  %stack = f32[27,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,64]{1,0} dynamic-slice(%stack, %i, %i), dynamic_slice_sizes={1,64}
  ROOT %flat = f32[64]{0} bitcast(%row)
}

%update (stack: f32[27,64], row: f32[1,64], i: s32[]) -> f32[27,64] {
  %stack.1 = f32[27,64]{1,0} parameter(0)
  %row.1 = f32[1,64]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %new = f32[27,64]{1,0} dynamic-update-slice(%stack.1, %row.1, %i.1, %i.1)
}
"""


def entry(*lines):
    body = "\n".join(f"  {line}" for line in ("%p = f32[27,64]{1,0} parameter(0)", *lines))
    return hlo.parse(f"{SLICED}\nENTRY %main (p: f32[27,64]) -> f32[] {{\n{body}\n}}\n")


ROW, STACK, NUMBER = 64 * 4, 27 * 64 * 4, 4


@pytest.mark.parametrize(
    ("lines", "moved"),
    [
        (["%a = f32[27,64]{1,0} add(%p, %p)"], 3 * STACK),
        (["%b = f32[1728]{0} bitcast(%p)"], 0),
        (["%c = f32[27,64]{1,0:S(1)} copy(%p)"], STACK),  # into the core's own memory
        (["%d = f32[1,64]{1,0} dynamic-slice(%p, %i, %i)"], 2 * ROW),
        (
            ["%d = (f32[27,64]{1,0:S(1)}, f32[27,64]{1,0}, u32[]{:S(2)}) copy-start(%p)"],
            STACK,  # ahead of time, onto the core
        ),
        (
            ["%d = ((f32[27,64]{1,0}), f32[1,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p)"],
            ROW,
        ),
        (
            ["%r = f32[1,64]{1,0} copy(%q)", "%e = f32[27,64]{1,0} dynamic-update-slice(%p, %r)"],
            3 * ROW,
        ),
        (
            ["%i = s32[] parameter(1)", "%f = f32[64]{0} fusion(%p, %i), calls=%slice"],
            2 * ROW + NUMBER,
        ),
        (
            [
                "%r = f32[1,64]{1,0} parameter(1)",
                "%i = s32[] parameter(2)",
                "%g = f32[27,64]{1,0} fusion(%p, %r, %i), calls=%update",
            ],
            2 * ROW + NUMBER,
        ),
    ],
)  # fmt: skip
def test_what_instructions_move(lines, moved):
    assert traffic(entry(*lines)) == moved


def test_a_loop_moves_as_often_as_it_runs():
    loop = """%body (x: f32[64]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  ROOT %y = f32[64]{0} negate(%x)
}

%condition (x: f32[64]) -> pred[] {
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  ROOT %w = f32[64]{0} while(%p), condition=%condition, body=%body, b={"known_trip_count":{"n":"9"}}
}
"""
    assert traffic(hlo.parse(loop)) == 9 * 2 * ROW


def test_the_largest_array_with_the_rows_of_all_chips():
    program = entry(
        "%a = f32[512,4]{1,0} f(%p)", "%b = bf16[2,512,9]{2,1,0} g(%p)", "%c = f32[99,999] h()"
    )
    assert largest_with(program, 512) == (2 * 512 * 9 * 2, "bf16", (2, 512, 9))
    assert largest_with(program, 7) == (0.0, "", ())
