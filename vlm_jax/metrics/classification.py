"""Accuracy, balanced accuracy, precision, recall and F1 of single-label classification.

Reference: scikit-learn (`accuracy_score`, `balanced_accuracy_score`,
`precision_recall_fscore_support` with `zero_division=0`). As there, macro averages run over the
classes that occur as a label or as a prediction, balanced accuracy over those that occur as a
label, and an undefined ratio is 0. No deviation.
"""

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.metrics.bootstrap import Measure, Weights


def classification_counts(
    labels: np.ndarray, predictions: np.ndarray, classes: int, weights: Weights = None
) -> Int[np.ndarray, "classes 3"]:
    """Per class: right predictions, predictions, labels. Counts of parts of a data set may be
    added.

    labels, predictions: int[N], class indices in [0, classes). weights: int[N], how often each
    example counts (None: once). Raises ValueError for other values, shapes or dtypes.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels and predictions must be [N], got {labels.shape} and {predictions.shape}"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} must be class indices, got dtype {values.dtype}")
        if values.size and not (0 <= values.min() and values.max() < classes):
            raise ValueError(
                f"{name} must lie in [0, {classes}), got [{values.min()}, {values.max()}]"
            )
    weights = np.ones(len(labels), np.int64) if weights is None else weights
    columns = [(labels, weights * (labels == predictions)), (predictions, weights)]
    counts = [
        np.bincount(values.astype(np.int64), often, minlength=classes).astype(np.int64)
        for values, often in [*columns, (labels, weights)]
    ]
    return np.stack(counts, axis=1)


def classification_scores(counts: Int[np.ndarray, "classes 3"]) -> dict[str, float]:
    """All scores, in [0, 1], from (summed) `classification_counts`. Raises ValueError if nothing
    was counted.
    """
    right, predicted, labelled = np.asarray(counts, np.float64).T
    total = labelled.sum()
    if not total:
        raise ValueError("no examples were counted")
    accuracy = float(right.sum() / total)
    precision, recall, f1 = (
        _ratio(right, predicted),
        _ratio(right, labelled),
        _ratio(2 * right, predicted + labelled),
    )
    present = predicted + labelled > 0
    macro = {"precision": precision, "recall": recall, "f1": f1}
    return {
        "accuracy": accuracy,
        "balanced_accuracy": float(recall[labelled > 0].mean()),
        **{f"{name}_macro": float(values[present].mean()) for name, values in macro.items()},
        # every example has one label and one prediction, so that the pooled ratios are all the same
        **{f"{name}_micro": accuracy for name in macro},
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def classification_measure(labels: np.ndarray, predictions: np.ndarray, classes: int) -> Measure:
    """`classification_scores`, to be given intervals. Raises ValueError as `classification_counts`
    does, and without examples.
    """

    def value(weights: Weights) -> np.ndarray:
        counts = classification_counts(labels, predictions, classes, weights)
        return np.array(list(classification_scores(counts).values()))

    names = classification_scores(classification_counts(labels, predictions, classes))
    return Measure(tuple(names), len(labels), value)


def classification_metrics(
    labels: np.ndarray, predictions: np.ndarray, classes: int
) -> dict[str, float]:
    """`classification_scores` of two arrays. Raises ValueError as that and `classification_counts`
    do.
    """
    return classification_scores(classification_counts(labels, predictions, classes))


def softmax(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
    """The probabilities that logits stand for."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)
