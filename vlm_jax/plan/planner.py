"""A plan: what a config's programs need of the chips of a topology, and how fast they can be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from vlm_jax import experiment, optim, sharding, trees
from vlm_jax.layers import dot_product
from vlm_jax.plan.chips import GIB, Chip, chip_of
from vlm_jax.plan.collectives import Collective, collectives
from vlm_jax.plan.compiling import Compiled, compile_for
from vlm_jax.plan.devices import devices_of
from vlm_jax.plan.evaluation import evaluation_program
from vlm_jax.plan.flops import count_flops
from vlm_jax.plan.memory import Memory, bytes_per_device
from vlm_jax.plan.roofline import Roofline, roofline
from vlm_jax.plan.synthetic import example_batch, examples_per_epoch, stand_in
from vlm_jax.plan.traffic import largest_with, traffic
from vlm_jax.program import Program, batch_of, make_program
from vlm_jax.step import variables_of

STEPS = 100_000
"""Of an epoch of a stand-in for the data, so many that every schedule fits: of the program, only
numbers in it depend on them."""

GROWING = GIB // 4
"""Bytes of an array with the rows of all devices beyond which it is worth a warning; the exchanged
embeddings of a contrastive loss are smaller."""


@dataclass(frozen=True)
class Plan:
    """What is known of a config on a topology before anything runs; memory in GiB per device.

    batch_size: of all devices together. parameters: how many numbers; per_device: how many of them
    a device holds; trained: how many are not frozen. model_flops: of a step, without what is
    computed anew in the backward pass; program_flops: with it. evals: the memory of each
    evaluation, the optimizer's state beside it. layout: which rule laid out which parameters how, a
    table. warnings: sentences about what looks wrong.
    """

    topology: str
    chip: Chip
    mesh: Mapping[str, int]
    devices: int
    batch_size: int
    parameters: int
    trained: int
    per_device: int
    memory: Memory
    model_flops: float
    program_flops: float
    collectives: tuple[Collective, ...]
    traffic: float
    roofline: Roofline | None
    constraints: int
    compile_seconds: float
    total_steps: int | None
    layout: str
    evals: Mapping[str, Memory] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """GiB that a program may use of a device."""
        return self.chip.usable_gib / self.chip.devices

    @property
    def fits(self) -> bool:
        """Whether the step and every evaluation do."""
        return all(one.total <= self.limit for one in (self.memory, *self.evals.values()))

    @property
    def chips(self) -> int:
        """How many chips the devices are."""
        return self.devices // self.chip.devices

    @property
    def mfu_ceiling(self) -> float | None:
        """The share of the chips' peak that a step can use at best."""
        if self.roofline is None:
            return None
        return self.model_flops / (self.chips * self.chip.flops * self.roofline.seconds)

    @property
    def chip_hours(self) -> float | None:
        """Of the whole schedule, without evaluations."""
        if self.roofline is None or self.total_steps is None:
            return None
        return self.chips * self.total_steps * self.roofline.seconds / 3600


def make_plan(config: Mapping[str, Any], topology: str, evals: bool = True) -> Plan:
    """The plan of a config for "v5e:8x8", "cpu:8" and the like; compiles for minutes if it is big.

    evals: compile the evaluations, too. ValueError or TypeError for what is wrong in the config or
    the topology; RuntimeError if libtpu is missing.
    """
    experiment.check_config(config)
    mesh = sharding.make_mesh(config.get("mesh"), devices_of(topology))
    sharding.check_batch_size(mesh, config["batch_size"])
    setup, program, batch = _programs(stand_in(config), mesh)
    step = compile_for(mesh, program.jit_update(), program.placed, batch)
    model_flops, program_flops = _flops(setup, program, batch)
    found = step.computations or {}
    moved, bytes_moved = collectives(found, mesh.shape), traffic(found)
    chip = chip_of(topology)
    roofs = (chip, mesh, program_flops, bytes_moved, moved)
    return Plan(
        topology=topology,
        chip=chip,
        mesh=dict(mesh.shape),
        devices=mesh.devices.size,
        batch_size=config["batch_size"],
        **_parameters(program),
        memory=step.memory,
        model_flops=model_flops,
        program_flops=program_flops,
        collectives=tuple(moved),
        traffic=bytes_moved,
        roofline=None if step.computations is None else roofline(*roofs),
        constraints=step.constraints,
        compile_seconds=step.seconds,
        total_steps=_total(config, setup),
        layout=sharding.rule_table(mesh, program.shapes["params"], config.get("mesh")),
        evals=_evaluations(setup, program) if evals else {},
        warnings=_warnings(step, mesh, config["batch_size"], program.shapes["params"]),
    )


def _programs(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh
) -> tuple[experiment.Experiment, Program, trees.Tree]:
    """The experiment of a config on built-in data, its program, and a batch of shapes."""
    source = experiment.source(config["data"]["train"], "config.data.train")
    setup = experiment.build(config, None, source)
    example = example_batch(setup, sharding.batch_shards(mesh))
    program = make_program(setup, mesh, example, STEPS * config["batch_size"])
    return setup, program, batch_of(mesh, example, config["batch_size"])


def _flops(
    setup: experiment.Experiment, program: Program, batch: trees.Tree
) -> tuple[float, float]:
    """Operations of a step without what the backward pass computes anew, and with it."""
    with jax.set_mesh(program.mesh):
        whole = count_flops(program.update, program.placed, batch)
        plain = without_remat(setup.config)
        storing = program
        if plain != setup.config:
            _, storing, _ = _programs(plain, program.mesh)
        with dot_product.plain():
            return count_flops(storing.update, storing.placed, batch), whole


def without_remat(config: Any) -> Any:
    """The config with every key `remat` set to False."""
    if isinstance(config, Mapping):
        return {
            key: False if key == "remat" else without_remat(value) for key, value in config.items()
        }
    return config


def _parameters(program: Program) -> dict[str, int]:
    """How many parameters there are, are trained, and lie on each device."""
    leaves = jax.tree.leaves(program.shapes["params"])
    where = jax.tree.leaves(program.shardings["params"])
    frozen = jax.tree.leaves(program.frozen)
    shares = [math.prod(s.shard_shape(leaf.shape)) for s, leaf in zip(where, leaves, strict=True)]
    trained = [leaf.size for leaf, cold in zip(leaves, frozen, strict=True) if not cold]
    total = trees.count_parameters(leaves)
    return {"parameters": total, "trained": sum(trained), "per_device": sum(shares)}


def _total(config: Mapping[str, Any], setup: experiment.Experiment) -> int | None:
    """Steps of the whole schedule; None if it counts epochs of a data set of unknown size."""
    known = examples_per_epoch(config["data"]["train"])
    if config.get("total_epochs") is not None and known is None:
        return None
    return optim.to_steps(config, "total", **setup.units(known))


def _evaluations(setup: experiment.Experiment, program: Program) -> dict[str, Memory]:
    """Memory of each evaluation, with the rest of the state, which stays where it is meanwhile."""
    found, known, state = {}, {}, program.placed
    variables = variables_of(state)
    idle = bytes_per_device(state) - bytes_per_device(variables)
    for name, section in dict(setup.config.get("evals") or {}).items():
        shards = sharding.batch_shards(program.mesh)
        made = evaluation_program(setup, program.mesh, section, shards)
        if made is None:
            continue
        function, example = made
        batch = batch_of(program.mesh, example, setup.config["batch_size"])
        # Several data sets are often evaluated in one way, which is compiled once.
        options = sorted(dict(section.get("options") or {}).items())
        same = (section["task"], repr(options), repr(batch))
        if same not in known:
            compiled = compile_for(program.mesh, jax.jit(function), variables, batch)
            known[same] = compiled.memory
        memory = known[same]
        found[name] = memory._replace(arguments=memory.arguments + idle / GIB)
    return found


def _warnings(
    step: Compiled, mesh: jax.sharding.Mesh, batch_size: int, params: trees.Tree
) -> tuple[str, ...]:
    """What makes the memory of a device grow with the number of devices.

    A batch as large as a dimension of a parameter tells nothing: arrays of both look alike.
    """
    found = []
    if mesh.devices.size > 1 and not step.constraints:
        found.append(
            "no activation is told where to live: the layout of the parameters will spread to "
            "activations, whose memory then grows with the number of chips"
        )
    told = not any(batch_size in leaf.shape for leaf in jax.tree.leaves(params))
    if step.computations is not None and sharding.batch_shards(mesh) > 1 and told:
        size, kind, shape = largest_with(step.computations, batch_size)
        if size > GROWING:
            found.append(
                f"each chip holds an array {kind}{list(shape)} of {size / GIB:.2f} GiB with all "
                f"{batch_size:,} rows of the global batch: it grows with the number of chips"
            )
    return tuple(found)
