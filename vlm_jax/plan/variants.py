"""What would make a config fit: the nearest variant that does, with its plan."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlm_jax import kwargs, models
from vlm_jax.plan.planner import Plan, make_plan

Config = dict[str, Any]


def nearest(config: Mapping[str, Any], plan: Plan) -> tuple[str, Plan] | None:
    """The first variant that fits, and what was changed, of: recompute activations; spread the
    state over all chips; both; both with ever smaller batches. None if not even one example per
    device fits.

    plan: that of the config. Variants whose arguments alone are too large are not compiled.
    """
    spread = with_fsdp(config) != config
    for changed, variant in _layouts(config):
        if spread and "fsdp" not in changed and plan.memory.arguments > plan.limit:
            continue
        plan = make_plan(variant, plan.topology, evals=bool(plan.evals))
        if plan.fits:
            return changed, plan
    return _smaller(config, plan)


def _layouts(config: Mapping[str, Any]) -> Iterator[tuple[str, Config]]:
    """Variants with the same batch that differ from the config."""
    remat, fsdp = with_remat(config), with_fsdp(config)
    if remat != config:
        yield "remat=True", remat
    if fsdp != config:
        yield "mesh.fsdp=-1", fsdp
    if remat != config and fsdp != config:
        yield "remat=True, mesh.fsdp=-1", with_fsdp(remat)


def _smaller(config: Mapping[str, Any], plan: Plan) -> tuple[str, Plan] | None:
    """Halve the batch, as often at once as temporaries that shrink with it suggest."""
    variant = with_fsdp(with_remat(config))
    changed = [name for name, _ in _layouts(config)][-1:]
    shards = plan.mesh["data"] * plan.mesh["fsdp"]
    if variant.get("mesh") != config.get("mesh"):
        shards = plan.devices
    rows, most = plan.batch_size, max(_temporaries(plan), 1e-9)
    room = max(plan.limit - plan.memory.arguments, 0.0)
    while rows // 2 >= shards:
        rows //= 2
        if most * rows / plan.batch_size > room and rows // 2 >= shards:
            continue
        smaller = make_plan({**variant, "batch_size": rows}, plan.topology, bool(plan.evals))
        if smaller.fits:
            return ", ".join([*changed, f"batch_size={rows}"]), smaller
    return None


def _temporaries(plan: Plan) -> float:
    """GiB of the hungriest program beside its arguments."""
    return max(one.total - one.arguments for one in (plan.memory, *plan.evals.values()))


def with_remat(config: Mapping[str, Any]) -> Config:
    """The config with activations computed anew in every part that can do so."""
    model = dict(config["model"])
    for part, table in models.PARTS.items():
        section = dict(model.get(part) or {})
        if section and "remat" in kwargs.keywords(table[section["name"]]):
            model[part] = section | {"remat": section.get("remat") or True}
    return {**config, "model": model}


def with_fsdp(config: Mapping[str, Any]) -> Config:
    """The config with its state spread over all devices that tensor and context leave."""
    mesh = dict(config.get("mesh") or {})
    if mesh.get("fsdp") == -1 and mesh.get("data", 1) == 1:
        return dict(config)
    return {**config, "mesh": mesh | {"data": 1, "fsdp": -1}}
