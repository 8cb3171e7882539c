"""What a run computes, before anything is on a device: the state's shapes and layout, and the step.

Training, planning and benchmarks take theirs from here, so that what is planned is what runs.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from vlm_jax import kwargs, lora, optim, sharding, trees
from vlm_jax.experiment import Experiment
from vlm_jax.step import Losses, State, initial_state, make_update
from vlm_jax.types import Batch

COMPILER = {"tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}}
"""Options for compiling a step, by kind of device. Left to itself, the TPU's compiler multiplies by
a split parameter while its pieces come in, and reads the activations again for each: by its plan, a
SigLIP step on 16 chips then moves 3.6 times the bytes through their memory."""


@dataclass(frozen=True)
class Program:
    """A config's state and step on a mesh.

    shapes: the state as jax.ShapeDtypeStruct; shardings: where its leaves live. create: a fresh
    state; update: (state, batch) -> (state, losses); both plain functions, to be compiled with
    `jit_create` and `jit_update`. frozen: bools like the parameters. total: steps of the whole
    run. learning_rate: peak, multiplied by schedule(step).
    """

    mesh: jax.sharding.Mesh
    shapes: State
    shardings: trees.Tree
    create: Callable[[], State]
    update: Callable[[State, Batch], tuple[State, Losses]]
    frozen: trees.Tree
    total: int
    schedule: optim.Schedule
    learning_rate: float

    def jit_create(self, options: Mapping[str, Any] | None = None) -> Callable[[], State]:
        """`create` with every leaf in its place; options: compiler_options of jax.jit. Call it
        under jax.set_mesh.
        """
        given = None if options is None else dict(options)
        return jax.jit(self.create, out_shardings=self.shardings, compiler_options=given)

    def jit_update(self) -> Any:
        """`update`, which takes over the memory of the state that it is given."""
        return jax.jit(
            self.update,
            donate_argnums=0,
            out_shardings=(self.shardings, None),
            compiler_options=COMPILER.get(self.mesh.devices.flat[0].platform),
        )

    @property
    def placed(self) -> State:
        """Shapes of the state that know where they live."""
        shape = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        return jax.tree.map(shape, self.shapes, self.shardings)

    def lower_update(self, batch: trees.Tree) -> jax.stages.Lowered:
        """`jit_update` traced for batches of these shapes (see `batch_of`)."""
        with jax.set_mesh(self.mesh):
            return self.jit_update().lower(self.placed, batch)

    def compile_update(self, batch: trees.Tree) -> "Future[Callable]":
        """`update` being compiled in a thread for batches of these shapes, while the caller makes
        the state that it starts from; result() waits, and raises what went wrong.
        """
        thread = ThreadPoolExecutor(1, "compile")
        compiled = thread.submit(lambda: self.lower_update(batch).compile())
        thread.shutdown(wait=False)
        return compiled


def make_program(
    setup: Experiment, mesh: jax.sharding.Mesh, example: Batch, examples_per_epoch: int
) -> Program:
    """The program of `setup.config` on a mesh.

    example: a batch with as many rows as the mesh has shards; only its shapes matter. TypeError or
    ValueError say which key of config.optimizer or config.schedule to change.
    """
    config = setup.config
    units = setup.units(examples_per_epoch)
    total = optim.to_steps(config, "total", **units)
    options = dict(config["optimizer"])
    accumulate, ema_decay = options.pop("accumulate", 1), options.pop("ema", None)
    schedule = optim.make_schedule(config.get("schedule") or {}, total_steps=total, **units)
    # Traced once, for its shapes and in `create`.
    init = jax.jit(partial(_initial, setup, example, dict(options.get("lora") or {})), inline=True)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(init)
    optimizer = optim.make_optimizer(options, schedule, shapes["params"])
    frozen = optim.frozen_parameters(options, shapes["params"], "config.optimizer")

    def complete(state: State) -> State:
        state = state | {"optimizer": optimizer.init(state["params"])}
        return state | ({} if ema_decay is None else {"ema": state["params"]})

    whole = jax.eval_shape(complete, shapes)
    layout = config.get("mesh")
    shardings = sharding.state_shardings(mesh, whole, layout)
    cast = sharding.cast_for_gathering(mesh, whole["params"], layout)
    fetch = lambda memory: sharding.fetch(memory, shardings["optimizer"])
    return Program(
        mesh=mesh,
        shapes=whole,
        shardings=shardings,
        create=lambda: complete(init()),
        update=make_update(setup, optimizer, frozen, accumulate, ema_decay, cast, fetch),
        frozen=frozen,
        total=total,
        schedule=schedule,
        learning_rate=options["learning_rate"],
    )


def _initial(setup: Experiment, example: Batch, adaptation: dict[str, Any]) -> State:
    """A fresh state without optimizer, with the factors of config.optimizer.lora, if any."""
    state = initial_state(setup, example, setup.config.get("seed", 0))
    factors = {name: x for name, x in adaptation.items() if name != "trained"}
    if not factors:
        return state
    given = {"params": state["params"], "key": jax.random.fold_in(state["key"], 0)}
    where = "config.optimizer.lora"
    return state | {"params": kwargs.call(lora.add, factors, where, **given)}


def batch_of(mesh: jax.sharding.Mesh, example: Batch, rows: int) -> trees.Tree:
    """Shapes of a batch of `rows` like the example, split over the mesh."""
    where = sharding.batch_sharding(mesh)
    shape = lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=where)
    return jax.tree.map(shape, example)
