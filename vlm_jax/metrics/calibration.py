"""Expected calibration error: does a model that says "70 % sure" turn out right in 70 %?

Guo et al., arXiv:1706.04599, equation 3: predictions are put into 15 bins of equal width by their
confidence, and |accuracy - mean confidence| is averaged over the bins, weighted by their sizes.
Bins are open below and closed above, the first one closed on both sides. No deviation.
"""

import numpy as np

from vlm_jax.metrics.bootstrap import Measure, Weights

BINS = 15


def calibration_measure(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Measure:
    """The measure "ECE". confidence: [n], in [0, 1]; correct: bool[n].

    Raises ValueError for other shapes or values, and without examples.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ValueError(
            f"confidence and correct must be two non-empty [n] arrays, got {confidence.shape} and "
            f"{correct.shape}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():  # NaN is not either
        raise ValueError("confidence must lie in [0, 1]; apply softmax to logits first")
    # against the edges themselves, lest 0.2 * 15 round up into the next bin
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")

    def value(weights: Weights) -> np.ndarray:
        weights = np.ones(len(confidence)) if weights is None else weights
        gap = np.bincount(bin_of, weights * (correct - confidence), bins)
        return np.array([np.abs(gap).sum() / weights.sum()])

    return Measure(("ECE",), len(confidence), value)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]. Raises ValueError as `calibration_measure` does."""
    return float(calibration_measure(confidence, correct, bins).value(None)[0])
