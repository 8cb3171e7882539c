"""CLIPScore and RefCLIPScore (arXiv:2104.08718, section 3) from embeddings of any dual encoder.

CLIPScore is 2.5 * max(cosine of image and caption, 0). RefCLIPScore is the harmonic mean of it and
of the highest cosine of the caption with a reference, if above 0. The official numbers are those of
CLIP ViT-B/32 with the prompt "A photo depicts" before every text; other encoders give other scales,
so name the encoder beside the number. No deviation.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.zero_shot import unit

WEIGHT = 2.5


def clip_scores(
    images: np.ndarray, captions: np.ndarray, weight: float = WEIGHT
) -> Float[np.ndarray, " n"]:
    """CLIPScore of each pair, in [0, weight]. images, captions: [n, E], of any length.

    Raises ValueError for other shapes, and for embeddings that are 0 or not finite.
    """
    images, captions = np.asarray(images, np.float64), np.asarray(captions, np.float64)
    if images.shape != captions.shape or images.ndim != 2 or not len(images):
        raise ValueError(
            f"images and captions must be two non-empty [n, E] arrays, got {images.shape} and "
            f"{captions.shape}"
        )
    cosine = (unit(images, "images") * unit(captions, "captions")).sum(axis=1)
    return weight * np.maximum(cosine, 0)


def reference_clip_scores(
    images: np.ndarray,
    captions: np.ndarray,
    references: Sequence[np.ndarray],
    weight: float = WEIGHT,
) -> Float[np.ndarray, " n"]:
    """RefCLIPScore of each pair. references: for each caption [references, E], at least one.

    Raises ValueError as `clip_scores` does, and for a caption without references.
    """
    scores = clip_scores(images, captions, weight)
    if len(references) != len(scores):
        raise ValueError(f"{len(scores)} captions but {len(references)} groups of references")
    said, best = unit(captions, "captions"), np.zeros(len(scores))
    for row, group in enumerate(references):
        if not len(group):
            raise ValueError(f"caption {row} has no reference")
        best[row] = max((unit(group, f"references of caption {row}") @ said[row]).max(), 0.0)
    total = scores + best
    return np.divide(2 * scores * best, total, out=np.zeros_like(total), where=total > 0)
