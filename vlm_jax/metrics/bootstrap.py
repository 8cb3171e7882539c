"""Bootstrap intervals (Efron, 1979; percentile method) of any metric, and the paired comparison of
two systems (Koehn, 2004, "Statistical significance tests for machine translation evaluation").

A metric here is a function of how often each example counts: once each for the value itself, as
often as drawn for a resample. Metrics of a whole corpus, such as BLEU, keep sufficient statistics
per example, so a resample costs one weighted sum and not another evaluation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Weights = Int[np.ndarray, " N"] | None
"""How often each example counts; None: once."""

LEVEL, RESAMPLES = 0.95, 1000


class Measure(NamedTuple):
    """Metrics of one evaluated set. names: M of them. n: examples in the set. counted: those that
    the metrics are about, if not all, such as the questions of one type.

    value: from how often each example counts (int[n], None for once each) to the M values; NaN
    where nothing counts. Examples stand in the order of their ids, so that the last digit depends
    on nothing else.
    """

    names: tuple[str, ...]
    n: int
    value: Callable[[Weights], Float[np.ndarray, " M"]]
    counted: int | None = None


class Score(NamedTuple):
    """A metric with its interval. n: the examples it is computed from."""

    value: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """Two systems on the same examples: both values, and b - a with its interval.

    p: two-sided, how often the resampled difference is on the other side of 0 or at it, twice;
    never below 2 / (resamples + 1).
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    n: int


def mean_of(name: str, scores: np.ndarray, counts: np.ndarray | None = None) -> Measure:
    """The mean of per-example scores [n]; with counts [n], sum(scores) / sum(counts).

    The value itself is rounded once (`math.fsum`), so it depends on no order of summation. Raises
    ValueError for other shapes, and if there is nothing to average.
    """
    scores = np.asarray(scores, np.float64)
    counts = np.ones_like(scores) if counts is None else np.asarray(counts, np.float64)
    if scores.ndim != 1 or scores.shape != counts.shape or not len(scores):
        raise ValueError(
            f"scores and counts must be two non-empty [N] arrays, got {scores.shape} and "
            f"{counts.shape}"
        )
    if not counts.sum():
        raise ValueError("the counts sum to 0: there is nothing to average")

    def value(weights: Weights) -> np.ndarray:
        if weights is None:
            return np.array([math.fsum(scores) / math.fsum(counts)])
        total = (weights * counts).sum()
        return np.array([(weights * scores).sum() / total if total else np.nan])

    return Measure((name,), len(scores), value, int(np.count_nonzero(counts)))


def resamples_of(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn, int[n], when n are drawn with replacement; the same
    for the same seed.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(n, size=n), minlength=n)


def score(
    measures: Sequence[Measure],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """Every metric with its percentile interval, all from the same resamples.

    Raises ValueError if there is no measure or if measures differ in n.
    """
    n = _common_n(measures)
    values = _values(measures, None)
    drawn = np.stack([_values(measures, weights) for weights in resamples_of(n, resamples, seed)])
    low, high = _interval(drawn, level)
    columns = np.stack([values, low, high], axis=1).tolist()
    rows = zip(_names(measures), columns, _counted(measures), strict=True)
    return {name: Score(*row, n=counted) for name, row, counted in rows}


def compare_measures(
    a: Sequence[Measure],
    b: Sequence[Measure],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Two systems' metrics of the same examples in the same order, on the same resamples.

    Raises ValueError if the two do not measure the same things of equally many examples.
    """
    n = _common_n([*a, *b])
    if (names := _names(a)) != _names(b):
        raise ValueError(f"the systems are measured differently: {names} and {_names(b)}")
    first, second = _values(a, None), _values(b, None)
    weights = resamples_of(n, resamples, seed)
    drawn = np.stack([_values(b, drawn) - _values(a, drawn) for drawn in weights])
    low, high = _interval(drawn, level)
    beyond = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    p = np.minimum(1.0, 2 * (beyond + 1) / (resamples + 1))
    columns = np.stack([first, second, second - first, low, high, p], axis=1).tolist()
    rows = zip(names, columns, _counted(a), strict=True)
    return {name: Comparison(*row, n=counted) for name, row, counted in rows}


def bootstrap_interval(
    sums: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of sum(sums) / sum(counts) when the examples are drawn anew, with replacement.

    sums, counts: [N], per example; counts 1 each if left out, which makes it the interval of a mean
    score. The same seed gives the same interval. Raises ValueError as `mean_of` does.
    """
    measure = mean_of("", sums, counts)
    found = score([measure], level=level, resamples=resamples, seed=seed)[""]
    return found.low, found.high


def _common_n(measures: Sequence[Measure]) -> int:
    sizes = sorted({measure.n for measure in measures})
    if len(sizes) != 1:
        raise ValueError(f"one set of examples is scored at a time; the measures have n = {sizes}")
    return sizes[0]


def _names(measures: Sequence[Measure]) -> list[str]:
    return [name for measure in measures for name in measure.names]


def _counted(measures: Sequence[Measure]) -> list[int]:
    """How many examples each name is about."""
    return [
        measure.n if measure.counted is None else measure.counted
        for measure in measures
        for _ in measure.names
    ]


def _values(measures: Sequence[Measure], weights: Weights) -> Float[np.ndarray, " M"]:
    return np.concatenate([measure.value(weights) for measure in measures])


def _interval(drawn: Float[np.ndarray, "R M"], level: float) -> Float[np.ndarray, "2 M"]:
    """The middle `level` of each column; resamples in which nothing counted are left out."""
    return np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
