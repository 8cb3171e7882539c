"""Bootstrap intervals (Efron, 1979; percentile method) of means over examples."""

import numpy as np


def bootstrap_interval(
    sums: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of sum(sums) / sum(counts) when the examples are drawn anew, with replacement.

    sums, counts: [N], per example; counts 1 each if left out, which makes it the interval of a mean
    score. The same seed gives the same interval. Raises ValueError if there are no examples, if
    shapes differ, or if the counts sum to 0.
    """
    sums = np.asarray(sums, np.float64)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, np.float64)
    if sums.ndim != 1 or sums.shape != counts.shape or not len(sums):
        raise ValueError(
            f"sums and counts must be two non-empty [N] arrays, got {sums.shape} and {counts.shape}"
        )
    if not counts.sum():
        raise ValueError("the counts sum to 0: there is nothing to average")
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(sums), size=len(sums)) for _ in range(resamples))
    totals = np.array([(sums[draw].sum(), counts[draw].sum()) for draw in draws])  # [resamples, 2]
    means = totals[:, 0] / np.where(totals[:, 1] > 0, totals[:, 1], np.nan)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
