"""Reading the text of compiled programs."""

import jax
import jax.numpy as jnp

from vlm_jax.plan import hlo

TEXT = """HloModule jit_update, is_scheduled=true

%body.1 (wide.param: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %wide.param = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%one, %wide.param)
}

%condition.1 (param: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(27)
  %param = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%param), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

ENTRY %main.1 (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0:T(8,128)} parameter(0)
  %begin = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) tuple(%x)
  %while.1 = (s32[], f32[8,4]) while(%begin), condition=%condition.1, body=%body.1, b={a="("}
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
}
"""


def test_computations_and_instructions_are_found():
    found = hlo.parse(TEXT)
    assert list(found) == ["body.1", "condition.1", "ENTRY"]
    loop = found["ENTRY"][2]
    assert (loop.kind, loop.operands, loop.root) == ("while", ["begin"], False)
    assert found["ENTRY"][3].root
    assert found["condition.1"][0].inside == "27"


def test_a_loop_runs_until_its_counter_reaches_the_constant():
    assert hlo.executions(hlo.parse(TEXT)) == {"ENTRY": 1, "body.1": 27}
    known = TEXT.replace('b={a="("}', 'backend_config={"known_trip_count":{"n":"5"}}')
    assert hlo.executions(hlo.parse(known))["body.1"] == 5


def test_types_have_sizes():
    assert hlo.size("f32[8,4]{1,0:T(8,128)}") == 128
    assert hlo.size("(bf16[3]{0}, s32[], pred[2,2])") == 6 + 4 + 4
    assert hlo.arrays("(bf16[3]{0:S(1)}, s32[])") == [("bf16", (3,), "{0:S(1)}"), ("s32", (), "")]


def test_a_program_compiled_here_is_read():
    looped = lambda x: jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ carry), None), x, length=9)[
        0
    ]
    text = jax.jit(looped).lower(jnp.ones((64, 64))).compile().as_text()
    assert 9 in hlo.executions(hlo.parse(text)).values()
