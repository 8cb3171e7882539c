"""Frechet distance between two sets of feature vectors, as if each were normal (Dowson and Landau,
1982). With InceptionV3's features this is what is known as FID (arXiv:1706.08500); with others it
is not, and the numbers do not compare.
"""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.bootstrap import LEVEL, Score

GROUPS = 100
"""Most parts that are left out, one at a time, for an interval: each is an eigenvalue problem."""


def frechet_distance(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> float:
    """|mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)), A and B the covariances with n - 1.

    Covariances of rank below D are no obstacle. The distance of two finite samples is above that of
    what they come from, the more the fewer there are: compare at equal n. ValueError for less than
    two vectors, or sets of different widths.
    """
    _check(a, b)
    return _distance(_moments(a), _moments(b))


def frechet_score(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    *,
    level: float = LEVEL,
    groups: int = GROUPS,
    seed: int = 0,
) -> Score:
    """The distance with an interval for that of what `a` was sampled from; `b`, the reference, is
    taken as it is. n: of `a`.

    Resampling with replacement repeats vectors, which adds a bias to that of the sample, so this is
    the jackknife's interval (Quenouille, 1956; Tukey, 1958; Shao and Tu, 1995, chapter 2): vectors
    are left out one at a time, or if there are more than `groups` in that many random parts; how
    the distance grows says what its bias is, how it differs what its error is. The bias is taken
    from the interval alone, cut off at 0, and not from the value, which belongs to n vectors as
    that of others does; the upper end is never below it. For fewer than about 4 D vectors the bias
    is most of the value, and estimated so roughly that the interval only says how small the
    distance may be. ValueError as `frechet_distance`, or for fewer than 3 vectors or 2 groups.
    """
    _check(a, b)
    if len(a) < 3 or groups < 2:
        raise ValueError(
            f"{len(a)} vectors in {groups} groups: at least 3 in at least 2 are needed"
        )
    reference, count = _moments(b), min(len(a), groups)
    value = _distance(_moments(a), reference)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(a)), count)
    without = [_distance(_moments(np.delete(a, part, axis=0)), reference) for part in parts]
    bias = (count - 1) * (np.mean(without) - value)
    error = np.sqrt((count - 1) * np.var(without))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    low, high = value - bias - reach, value - bias + reach
    return Score(value, min(max(float(low), 0.0), value), max(float(high), value), len(a))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D], and X [D or N, D], as small as can be, with X' X the covariance."""
    mean = x.mean(axis=0, dtype=np.float64)
    root = (x - mean) / np.sqrt(len(x) - 1)
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"))
    return mean, root


def _distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """The nuclear norm of X Y' is the trace of (A B)^(1/2) if A = X' X and B = Y' Y."""
    (mean_a, x), (mean_b, y) = a, b
    spread = np.sum(np.square(x)) + np.sum(np.square(y))
    both = np.sum(np.linalg.svd(x @ y.T, compute_uv=False))
    return max(float(np.sum(np.square(mean_a - mean_b)) + spread - 2 * both), 0.0)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"two sets [N, D] of at least two vectors are needed, not {a.shape} and {b.shape}"
        )
