"""Line charts as geometry: where every line, tick and label of an SVG drawing goes.

`chart` computes, `templates/chart.svg.jinja` draws; colours are left to the style sheet, so that
one drawing suits a light and a dark page.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 84, 30, 12, 48
"""Margins around the plotting area, in the units of WIDTH and HEIGHT."""

LOG_RATIO = 25.0
"""Positive values that span more than this factor are drawn on a logarithmic axis."""

POINTS = 300
"""More points than this are averaged in groups."""

SMOOTHED = 60
"""From this many points on a moving average is drawn over the faint values."""


Scale = Callable[[np.ndarray], np.ndarray]
"""From values to places in the drawing."""


class Series(NamedTuple):
    """One line. steps, values: [n], values not finite or None are left out. baseline: dashed, a
    level to compare with.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float | None]
    baseline: bool = False


class Tick(NamedTuple):
    """A mark on an axis: distance from the left or the top, and what is written there."""

    at: float
    label: str


class Line(NamedTuple):
    """A drawn series. points, faint: SVG polyline points (faint is empty if nothing was smoothed).
    last: final value.
    """

    name: str
    baseline: bool
    points: str
    faint: str
    dots: list[tuple[float, float]]
    last: str


class Chart(NamedTuple):
    """What the template draws. label: of the vertical axis. left, top, right, bottom: edges of the
    plotting area.
    """

    title: str
    label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def chart(
    title: str,
    label: str,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    smooth: bool = True,
) -> Chart | None:
    """The chart of some series over steps; None if no series has two points, which a line needs.

    label: of the vertical axis. from_zero: the axis is linear and shows 0; otherwise it fits the
    values, and is logarithmic where they span more than LOG_RATIO. smooth: whether long series get
    a moving average.
    """
    data = [(one, *_thin(*_finite(one))) for one in series]
    data = [(one, x, y) for one, x, y in data if len(x)]
    if max((len(x) for one, x, _ in data if not one.baseline), default=0) < 2:
        return None
    values = np.concatenate([y for _, _, y in data])
    low, high = float(values.min()), float(values.max())
    logarithmic = not from_zero and low > 0 and high / low > LOG_RATIO
    marks = (
        _log_marks(low, high) if logarithmic else _marks(min(low, 0.0) if from_zero else low, high)
    )
    y_range = (min(low, marks[0]), max(high, marks[-1]))
    last = max(float(x.max()) for _, x, _ in data) or 1.0
    x_of = lambda x: LEFT + np.asarray(x) / last * (WIDTH - RIGHT - LEFT)
    scale = np.log if logarithmic else np.asarray
    bottom, top = scale(y_range[0]), scale(y_range[1])
    y_of = lambda y: (
        HEIGHT - BOTTOM - (scale(y) - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP)
    )
    return Chart(
        title,
        label + (", log scale" if logarithmic else ""),
        [_line(one, x, y, x_of, y_of, smooth) for one, x, y in data],
        [
            Tick(float(x_of(mark)), _short(mark))
            for mark in _marks(0.0, last)
            if mark <= last * 1.001
        ],
        [Tick(float(y_of(mark)), _short(mark)) for mark in marks],
    )


def _line(
    one: Series, x: np.ndarray, y: np.ndarray, x_of: Scale, y_of: Scale, smooth: bool
) -> Line:
    """A series in the drawing's coordinates; smoothed if it is long, with dots if it is short."""
    points = lambda values: " ".join(
        f"{a:.1f},{b:.1f}" for a, b in zip(x_of(x), y_of(values), strict=True)
    )
    smooth = smooth and len(x) >= SMOOTHED and not one.baseline
    drawn = _moving_average(y, max(3, len(y) // 20)) if smooth else y
    few = len(x) <= 25 and not one.baseline
    dots = (
        [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x_of(x), y_of(y), strict=True)]
        if few
        else []
    )
    return Line(
        one.name, one.baseline, points(drawn), points(y) if smooth else "", dots, f"{drawn[-1]:.3g}"
    )


def _finite(one: Series) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a series, f64[n] each, without what cannot be drawn."""
    x = np.array(one.steps, np.float64)
    y = np.array([math.nan if value is None else value for value in one.values], np.float64)
    sound = np.isfinite(y)
    return x[sound], y[sound]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points, each the mean of as many neighbours (the last of what is left)."""
    if len(x) <= POINTS:
        return x, y
    starts = np.arange(0, len(x), math.ceil(len(x) / POINTS))  # equal groups, for equal noise
    counts = np.diff(starts, append=len(x))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _moving_average(y: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` points around each; fewer at the ends."""
    window = np.ones(width)
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def _marks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers whose ends enclose [low, high]."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, low + (abs(low) or 1.0) / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _log_marks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high], with 2 and 5 times these where the range is short."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    return [mark for mark in marks if low <= mark <= high]


def _short(value: float) -> str:
    """A tick's label: 0.05, 2,000, 250k, 1e-5."""
    if abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    if value and abs(value) < 1e-3:
        return f"{value:g}".replace("e-0", "e-")
    return f"{value:,.10g}"
