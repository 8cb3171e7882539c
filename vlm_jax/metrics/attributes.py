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
    """Micro-averaged precision, recall and F1 over a data set.

    Raises ValueError, naming up to five ids, if there are no predictions or if the ids differ.
    """
    if not predictions:
        raise ValueError("there are no predictions to score")
    if unpaired := predictions.keys() ^ references.keys():
        named = ", ".join(sorted(map(repr, unpaired))[:5])
        raise ValueError(
            f"{len(unpaired)} ids are only in the predictions or only in the references: {named}"
        )
    return attribute_scores(
        np.sum([attribute_counts(found, references[key]) for key, found in predictions.items()], 0)
    )
