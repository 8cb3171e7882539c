"""A plan as text for a person, and as one JSON object for a program."""

from typing import Any

from vlm_jax.plan.memory import Memory
from vlm_jax.plan.planner import Plan


def as_json(plan: Plan) -> dict[str, Any]:
    """Numbers of a plan by name. hbm_gib: what a program may use of a device; total_gib: what the
    step needs of it. Seconds and what follows from them are None if the program does not fit.
    """
    roofs = plan.roofline
    return {
        "fits": plan.fits,
        "topology": plan.topology,
        "chips": plan.chips,
        "mesh": dict(plan.mesh),
        "batch_size": plan.batch_size,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "parameters_per_chip": plan.per_device * plan.chip.devices,
        "arguments_gib": round(plan.memory.arguments, 6),
        "temporaries_gib": round(plan.memory.temporaries, 6),
        "output_gib": round(plan.memory.output, 6),
        "code_gib": round(plan.memory.code, 6),
        "total_gib": round(plan.memory.total, 6),
        "hbm_gib": plan.limit,
        "model_flops": plan.model_flops,
        "recomputed_flops": plan.program_flops - plan.model_flops,
        "collective_bytes": sum(one.bytes for one in plan.collectives),
        "collectives": [one._asdict() for one in plan.collectives],
        "hbm_bytes": plan.traffic,
        "roofline_seconds": None if roofs is None else roofs._asdict(),
        "bound": None if roofs is None else roofs.bound,
        "predicted_step_seconds": None if roofs is None else roofs.seconds,
        "mfu_ceiling": plan.mfu_ceiling,
        "compile_seconds": round(plan.compile_seconds, 1),
        "constraints": plan.constraints,
        "total_steps": plan.total_steps,
        "chip_hours": plan.chip_hours,
        "evals": {name: round(memory.total, 6) for name, memory in plan.evals.items()},
        "warnings": list(plan.warnings),
    }


def as_text(plan: Plan) -> str:
    """A plan in about thirty lines."""
    axes = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    lines = [
        f"topology      {plan.topology}: {plan.chips} chips, mesh {axes or 'of one device'}",
        f"batch         {plan.batch_size:,}, {plan.batch_size / plan.chips:g} per chip",
        f"parameters    {plan.parameters:,}, {plan.trained:,} of them trained; "
        f"{plan.per_device:,} per device",
        *(f"  {line}" for line in plan.layout.splitlines()),
        f"memory        {_memory(plan.memory)}, of {plan.limit:g} GiB per device",
    ]
    lines += [f"  eval {name}: {_memory(one)}" for name, one in plan.evals.items()]
    lines += [
        f"arithmetic    {plan.model_flops:.4g} FLOPs per step, "
        f"{plan.program_flops - plan.model_flops:.4g} more to compute activations anew",
        f"compilation   {plan.compile_seconds:.1f} s, {plan.constraints} constraints",
        *_speed(plan),
        *(f"warning       {sentence}" for sentence in plan.warnings),
        f"fits          {'yes' if plan.fits else 'NO'}",
    ]
    return "\n".join(lines)


def _memory(memory: Memory) -> str:
    parts = zip(memory._fields, memory, strict=True)
    return f"{memory.total:.3g} GiB: " + ", ".join(f"{name} {size:.3g}" for name, size in parts)


def _speed(plan: Plan) -> list[str]:
    """Collectives, roofline and schedule of a program that the compiler finished."""
    if plan.roofline is None:
        return ["speed         unknown: the compiler gives up on programs that do not fit"]
    lines = [f"exchange      {sum(one.bytes for one in plan.collectives):.4g} bytes per device"]
    lines += [
        f"  {one.kind} over {one.axes}: {one.count} times, {one.bytes:.4g} bytes"
        for one in plan.collectives
    ]
    times = zip(plan.roofline._fields, plan.roofline, strict=True)
    lines += [
        "roofline      " + ", ".join(f"{name} {time:.4g} s" for name, time in times),
        f"step          {plan.roofline.seconds:.4g} s at best, bound by {plan.roofline.bound}; "
        f"MFU at most {plan.mfu_ceiling:.0%}",
    ]
    if plan.chip_hours is not None:
        lines.append(
            f"schedule      {plan.total_steps:,} steps, {plan.chip_hours:,.4g} chip hours at best"
        )
    return lines


def advice(near: tuple[str, Plan] | None) -> str:
    """What would make a config fit: the answer of `variants.nearest`."""
    if near is None:
        return "nearest       none: not even one example per device fits; use more or larger chips"
    changed, plan = near
    speed = "" if plan.roofline is None else f", {plan.roofline.seconds:.4g} s per step at best"
    return f"nearest       {changed}: {_memory(plan.memory)}{speed}"
