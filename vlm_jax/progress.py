"""The line on the terminal: where a loop is, how fast, and how much of its time is waiting for
data.
"""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn

from vlm_jax import processes
from vlm_jax.kwargs import Number


def format_number(value: Any) -> str:
    """Four significant digits, thousands separated, integers whole: 0.1235, 12.35, 12,346,
    1.235e-05.
    """
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(float(value))
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def format_seconds(seconds: Number) -> str:
    """0:07, 12:34 or 3:04:05."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Progress:
    """Where a loop is, how fast, how long it takes yet, and how much of its time goes into waiting
    for data.

    A bar on a terminal; elsewhere one line every `interval` seconds. total, start: last and current
    step. batch_size: examples per step. clock: seconds, for tests. Nothing is shown in all but the
    first process.

        with Progress(total_steps, batch_size, start=step) as progress:
            with progress.waiting(): batch = next(batches)
            progress.update(step, loss=0.5)
            with progress.paused(): evaluate()      # time that is not training
            logs.write_timing(step, progress.timing())

    Rates count from the end of the first step, which is mostly compilation.
    """

    def __init__(
        self,
        total: int,
        batch_size: int,
        *,
        start: int = 0,
        interval: Number = 10.0,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._batch_size, self._step = total, batch_size, start
        self._interval, self._clock = interval, clock
        self._waited = self._idle = 0.0
        self._origin: _Mark | None = None
        self._previous: _Mark | None = None
        self._recent: collections.deque = collections.deque()
        self._values: dict[str, Any] = {}
        self._shown = -math.inf
        self._shows = processes.is_first()
        self._console = Console(file=file or sys.stderr, soft_wrap=True)
        columns = (BarColumn(bar_width=20), TextColumn("{task.description}"))
        self._bar = None
        if self._shows and self._console.is_terminal:
            self._bar = rich.progress.Progress(*columns, console=self._console, transient=False)
            self._task = self._bar.add_task("compiling", total=total, completed=start)
            self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context whose time counts as waiting for data."""
        began = self._clock()
        yield
        self._waited += self._clock() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time does not count at all: evaluation, saving."""
        began = self._clock()
        yield
        self._idle += self._clock() - began

    def update(self, step: int, **values: Any) -> None:
        """Step `step` is done. values: shown in this order; none shows the last ones again."""
        self._step = step
        self._values = values or self._values
        mark = self._mark()
        self._origin = self._origin or mark
        self._previous = self._previous or mark
        self._recent.append(mark)
        while len(self._recent) > 2 and self._recent[0].seconds < mark.seconds - 20:
            self._recent.popleft()
        if self._bar:
            self._bar.update(self._task, completed=step, description=self.line())
        elif self._shows and (mark.seconds - self._shown >= self._interval or step == self._total):
            self._shown = mark.seconds
            self._console.print(self.line(), highlight=False, markup=False)

    def line(self) -> str:
        """Text like "step 12/50, loss 0.4312, 812 examples/s, 1:23 left, 3% waiting for data"."""
        rates = _rates(self._recent[0], self._recent[-1], self._batch_size) if self._recent else {}
        parts = [f"step {self._step:,}/{self._total:,}"]
        parts += [f"{name} {format_number(value)}" for name, value in self._values.items()]
        if rates:
            seconds = (self._total - self._step) / rates["steps_per_second"]
            parts.append(f"{format_number(round(rates['examples_per_second'], 1))} examples/s")
            parts.append(f"{format_seconds(seconds)} left")
            parts.append(f"{rates['waiting_share']:.0%} waiting for data")
        return ", ".join(parts)

    def timing(self) -> dict[str, float]:
        """steps_per_second, examples_per_second and waiting_share in [0, 1] since the previous
        call.

        Empty if no step was finished since then.
        """
        mark = self._mark()
        rates = _rates(self._previous, mark, self._batch_size) if self._previous else {}
        self._previous = mark if rates else self._previous
        return rates

    def total(self) -> dict[str, float]:
        """What `timing` gives, for the whole loop up to now."""
        return _rates(self._origin, self._mark(), self._batch_size) if self._origin else {}

    def print(self, text: str) -> None:
        """A line of text above the bar."""
        if self._shows:
            self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leaves the last state of the bar on the terminal."""
        if self._bar:
            self._bar.stop()

    def _mark(self) -> "_Mark":
        return _Mark(self._clock() - self._idle, self._step, self._waited)


class _Mark(NamedTuple):
    """A moment in a loop: seconds of training so far, step, and how many of the seconds were spent
    waiting.
    """

    seconds: float
    step: int
    waited: float


def _rates(begin: _Mark, end: _Mark, batch_size: int) -> dict[str, float]:
    """Speeds between two moments; empty if no step lies between them."""
    seconds, steps = end.seconds - begin.seconds, end.step - begin.step
    if steps <= 0 or seconds <= 0:
        return {}
    return {
        "steps_per_second": steps / seconds,
        "examples_per_second": steps * batch_size / seconds,
        "waiting_share": min((end.waited - begin.waited) / seconds, 1.0),
    }
