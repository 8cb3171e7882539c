"""Where the numbers of a run go: JSON lines, TensorBoard, optional services.

Every writer is a class with `write(step, values)` and `close()`; values map names to floats. `Logs`
holds the writers of a config. Deterministic values go to metrics.jsonl, which is identical to the
last bit for two runs of one config; speeds and waits go to timing.jsonl. Both reach the other
writers.
"""

import importlib
import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from vlm_jax import processes
from vlm_jax.kwargs import Config, call, lookup
from vlm_jax.workdir import atomic_write_bytes, atomic_write_text

Values = Mapping[str, Any]
"""Names to numbers: of Python, NumPy or JAX."""


class JsonLines:
    """A file with one JSON object a line: {"step": 100, name: value, ...}, in the order given.

    Floats are written so that reading them gives the same bits; NaN and infinities become null.
    `step` must increase from line to line. resume: step that training continues from, None if it
    starts anew; lines after it, which will be written again, and a half-written last line are
    removed. ValueError for a broken line elsewhere, or a step that does not increase.
    """

    def __init__(self, path: str | Path, resume: int | None = None):
        self.path = Path(path)
        self._last = -1
        if self.path.exists():
            self._truncate(-1 if resume is None else resume)
        # Unbuffered, so that a line is one write: a killed process leaves it whole or absent.
        self._file = self.path.open("ab", buffering=0)

    def _truncate(self, resume: int) -> None:
        """Keeps the lines up to step `resume`."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = []
        for number, line in enumerate(lines, start=1):
            try:
                step = json.loads(line)["step"] if line.endswith(b"\n") else math.inf
            except (ValueError, KeyError, TypeError) as error:
                if number < len(lines):
                    raise ValueError(
                        f"{self.path}, line {number}: not a line of this log"
                    ) from error
                step = math.inf
            if step <= resume:
                kept.append(line)
                self._last = step
        if len(kept) < len(lines):
            atomic_write_bytes(self.path, b"".join(kept))

    def write(self, step: int, values: Values) -> None:
        """Appends one line; see the class."""
        if step <= self._last:
            raise ValueError(
                f"{self.path}: step {step} after step {self._last}; write all values of a step "
                "at once"
            )
        self._last = int(step)
        numbers = {name: _number(value) for name, value in values.items()}
        self._file.write(
            json.dumps({"step": int(step), **numbers}, allow_nan=False).encode() + b"\n"
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """All whole lines of a JsonLines file, as dictionaries."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


class TensorBoard:
    """TensorBoard event files in `workdir`/tensorboard; neither writing nor reading them takes
    TensorFlow.

    A step that is written again after a resume is shown with its last value.
    """

    def __init__(self, workdir: str | Path):
        self._writer = SummaryWriter(str(Path(workdir) / "tensorboard"))

    def write(self, step: int, values: Values) -> None:
        """One scalar event per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), int(step))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandB:
    """A run on Weights & Biases, continued by later processes of the same workdir.

    RuntimeError if wandb is not installed.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        project: str = "vlm_jax",
        name: str | None = None,
        entity: str | None = None,
        mode: str | None = None,
    ):
        wandb = _optional("wandb")
        workdir = Path(workdir).absolute()
        self._run = wandb.init(
            project=project,
            name=name or workdir.name,
            entity=entity,
            mode=mode,
            dir=str(workdir),
            id=_remembered(workdir / "wandb_id", lambda: uuid.uuid4().hex),
            resume="allow",
        )

    def write(self, step: int, values: Values) -> None:
        """One history row."""
        self._run.log({name: float(value) for name, value in values.items()}, step=int(step))

    def close(self) -> None:
        """Uploads what is left and ends the run."""
        self._run.finish()


class MLflow:
    """A run on an MLflow server or folder, continued by later processes of the same workdir.

    tracking_uri: None uses MLflow's own default. RuntimeError if mlflow is not installed.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        experiment: str = "vlm_jax",
        name: str | None = None,
        tracking_uri: str | None = None,
    ):
        mlflow = _optional("mlflow")
        workdir = Path(workdir).absolute()
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri)

        def create() -> str:
            known = self._client.get_experiment_by_name(experiment)
            group = known.experiment_id if known else self._client.create_experiment(experiment)
            return self._client.create_run(group, run_name=name or workdir.name).info.run_id

        self._id = _remembered(workdir / "mlflow_id", create)

    def write(self, step: int, values: Values) -> None:
        """One metric entry per value."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, float(value), step=int(step))

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._id)


WRITERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""Optional writers; metrics.jsonl and timing.jsonl are always written."""


class Logs:
    """All writers of a run. Everything is silent in all but the first process of a distributed run.

    workdir: existing folder. config: writer name (a key of WRITERS) to its keyword arguments; None
    is TensorBoard only. resume: step that training continues from, None if it starts anew. Errors
    as in `kwargs.call` and `JsonLines`.
    """

    def __init__(
        self,
        workdir: str | Path,
        config: Config = None,
        *,
        resume: int | None = None,
    ):
        self._metrics, self._timing, self._others = [], [], []
        if not processes.is_first():
            return
        for name, options in ({"tensorboard": {}} if config is None else dict(config)).items():
            writer = lookup(WRITERS, name, "config.logs writer")
            self._others.append(call(writer, options, f"config.logs.{name}", workdir=workdir))
        self._metrics.append(JsonLines(Path(workdir) / "metrics.jsonl", resume))
        self._timing.append(JsonLines(Path(workdir) / "timing.jsonl", resume))

    def write(self, step: int, values: Values) -> None:
        """Deterministic values of a step, all in one call: losses, metrics, learning rate. To
        metrics.jsonl and the others.

        To survive a kill exactly once, write a step before its checkpoint is saved.
        """
        self._write([*self._metrics, *self._others], step, values)

    def write_timing(self, step: int, values: Values) -> None:
        """Values that differ between two identical runs: speeds, waits, memory. To timing.jsonl and
        the others.
        """
        self._write([*self._timing, *self._others], step, values)

    def _write(self, writers: list, step: int, values: Values) -> None:
        for writer in writers:
            writer.write(step, values)

    def close(self) -> None:
        """Closes every writer."""
        for writer in [*self._metrics, *self._timing, *self._others]:
            writer.close()


def _optional(package: str) -> Any:
    """An optional package; RuntimeError saying how to install it or do without."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RuntimeError(
            f"config.logs.{package} needs the package {package!r}: `pip install {package}`, or "
            "remove the key"
        ) from error


def _remembered(path: Path, create: Callable[[], str]) -> str:
    """The identifier stored in a file, created at first use."""
    if not path.exists():
        atomic_write_text(path, create())
    return path.read_text()


def _number(value: Any) -> int | float | None:
    """A Python number for JSON; None for NaN and infinities, which JSON does not have."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
