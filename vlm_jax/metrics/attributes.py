"""Object-attribute F1: does a caption name the objects of a scene with their right attributes?

An object is a tuple of attributes, such as ("red", "square") or ("red", "square", "small"); a
caption and a scene are sets of them. An object counts only if all its attributes are right. The
idea is that of SPICE (arXiv:1607.08822, section 3.2), on tuples that are known exactly instead of
parsed; there is no official scorer.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from vlm_jax.metrics.bootstrap import Measure, Weights
from vlm_jax.metrics.identity import in_id_order, name_ids

Objects = Collection[tuple[str, ...]]


def attribute_counts(predicted: Objects, true: Objects) -> Int[np.ndarray, " 3"]:
    """Of one example: right objects, predicted objects, true objects; duplicates count once. Counts
    may be added.
    """
    predicted, true = set(predicted), set(true)
    return np.array([len(predicted & true), len(predicted), len(true)])


def attribute_scores(counts: Int[np.ndarray, " 3"]) -> dict[str, float]:
    """Scores "precision", "recall" and "f1", in [0, 1], from (summed) counts; 0 / 0 is 0."""
    right, predicted, true = map(int, counts)
    return {
        "precision": right / max(predicted, 1),
        "recall": right / max(true, 1),
        "f1": 2 * right / max(predicted + true, 1),
    }


def attribute_f1(
    predictions: Mapping[Any, Objects], references: Mapping[Any, Objects]
) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 over a data set. Raises ValueError as
    `attribute_measure` does.
    """
    return attribute_scores(_all_counts(predictions, references).sum(axis=0))


def attribute_measure(
    predictions: Mapping[Any, Objects], references: Mapping[Any, Objects]
) -> Measure:
    """The measures "attribute_precision", "attribute_recall" and "attribute_f1".

    Raises ValueError, naming up to five ids, if there are no predictions or if the ids differ.
    """
    counts = _all_counts(predictions, references)

    def value(weights: Weights) -> np.ndarray:
        weights = np.ones(len(counts), np.int64) if weights is None else weights
        return np.array(list(attribute_scores(weights @ counts).values()))

    names = ("attribute_precision", "attribute_recall", "attribute_f1")
    return Measure(names, len(counts), value)


def _all_counts(
    predictions: Mapping[Any, Objects], references: Mapping[Any, Objects]
) -> Int[np.ndarray, "N 3"]:
    """`attribute_counts` of each example."""
    if not predictions:
        raise ValueError("there are no predictions to score")
    if unpaired := predictions.keys() ^ references.keys():
        raise ValueError(
            f"{len(unpaired)} ids are only in the predictions or only in the references: "
            f"{name_ids(in_id_order(unpaired))}"
        )
    return np.stack(
        [attribute_counts(predictions[key], references[key]) for key in in_id_order(predictions)]
    )
