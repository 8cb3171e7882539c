"""Zero-shot classification with a dual encoder and an ensemble of prompts per class.

CLIP, arXiv:2103.00020, sections 3.1.4 and 3.1.5: the unit vectors of a class's prompts are averaged
and made a unit vector again; an image belongs to the class with the highest cosine. Prompts are
averaged as embeddings and not as probabilities, as there.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.classification import softmax


def class_embeddings(prompts: Sequence[np.ndarray]) -> Float[np.ndarray, "C E"]:
    """One unit vector per class from the embeddings of its prompts.

    prompts: C arrays [prompts of the class, E], or one array [C, P, E]; of any length each. Raises
    ValueError, naming the class, if one has no prompt, or if an embedding is 0 or not finite.
    """
    means = []
    for number, group in enumerate(prompts):
        group = np.asarray(group, np.float64)
        if group.ndim != 2 or not len(group):
            raise ValueError(f"class {number}: its prompts must be [P, E], got {group.shape}")
        means.append(unit(group, f"class {number}").mean(axis=0))
    if not means:
        raise ValueError("there are no classes")
    return unit(np.stack(means), "the mean of the prompts")


def zero_shot_scores(
    images: np.ndarray, classes: Float[np.ndarray, "C E"], scale: float = 100.0
) -> Float[np.ndarray, "n C"]:
    """Probability of each class for each image: softmax of scale * cosine.

    images: [n, E], of any length. classes: from `class_embeddings`. scale: the model's own, 100 in
    CLIP; it decides the calibration and not the order. Raises ValueError for other shapes and for
    embeddings that are 0 or not finite.
    """
    images = np.asarray(images, np.float64)
    if images.ndim != 2 or images.shape[1] != classes.shape[1]:
        raise ValueError(
            f"embeddings must be [n, E] and [C, E], got {images.shape} and {classes.shape}"
        )
    logits = scale * unit(images, "images") @ classes.T  # [n, C]
    return softmax(logits)


def unit(vectors: np.ndarray, what: str) -> Float[np.ndarray, "n E"]:
    """Vectors [n, E] at length 1. Raises ValueError, saying `what` and which row, if one is 0 or
    not finite.
    """
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if len(bad := np.flatnonzero(~(np.isfinite(length[..., 0]) & (length[..., 0] > 0)))):
        raise ValueError(f"{what}: embedding {bad[0]} is 0 or not finite, it has no direction")
    return vectors / length
