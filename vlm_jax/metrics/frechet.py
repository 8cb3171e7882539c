"""Frechet distance between two sets of feature vectors, as if each were normal (Dowson and Landau,
1982). With InceptionV3's features this is what is known as FID (arXiv:1706.08500); with others it
is not, and the numbers do not compare.
"""

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.bootstrap import LEVEL, Score, resamples_of

RESAMPLES = 200
"""Fewer than for other metrics: each is an eigenvalue problem."""


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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Score:
    """The distance with its interval when the vectors of `a` are drawn anew, with replacement; `b`,
    the reference, stays. n: of `a`.

    Resamples repeat vectors, which puts them farther away than the sample itself. So the interval
    is the basic one, the quantiles of the differences reflected at the value (Davison and Hinkley,
    1997, section 5.2), cut off at 0: one for the distance of what was sampled, so that for few
    vectors all of it may lie below the value.
    """
    _check(a, b)
    reference = _moments(b)
    value = _distance(_moments(a), reference)
    drawn = [
        _distance(_moments(np.repeat(a, weights, axis=0)), reference)
        for weights in resamples_of(len(a), resamples, seed)
    ]
    low, high = 2 * value - np.quantile(drawn, [(1 + level) / 2, (1 - level) / 2])
    return Score(value, max(float(low), 0.0), max(float(high), 0.0), len(a))


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
