"""The program that an entry of config.evals runs for every batch, for compiling it alone."""

from collections.abc import Callable, Mapping
from typing import Any

from vlm_jax import evaluate, experiment
from vlm_jax.data.pipeline import Loader, stack
from vlm_jax.types import Batch


class _Found(Exception):
    """What an evaluation was about to run: its function and a batch."""

    def __init__(self, function: Callable, batch: Batch):
        super().__init__()
        self.function, self.batch = function, batch


def evaluation_program(
    setup: experiment.Experiment, mesh: Any, section: Mapping[str, Any], rows: int
) -> tuple[Callable, Batch] | None:
    """The function of (variables, batch) that the evaluation runs first (the others are smaller:
    texts after images), and a batch of `rows`; None if it runs nothing on the devices.
    """
    run = evaluate.Run(setup, {}, mesh, rows)

    def found(
        key: Any, function: Callable, source: Any, inputs: Callable, kind: str = "image", **_: Any
    ) -> Any:
        read = setup.read.only(kind)
        loader = Loader(source, read, {"inputs": lambda example, _: inputs(example)}, "raise")
        raise _Found(function, stack([loader(0)] * rows))

    run._map = found
    source = experiment.source(section["data"], "config.evals")
    task = setup.tasks[section["task"]]
    try:
        dict(task.evaluate(run, source, None, **dict(section.get("options") or {})))
    except _Found as program:
        return program.function, program.batch
    return None
