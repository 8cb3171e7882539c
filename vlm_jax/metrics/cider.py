"""CIDEr-D (arXiv:1411.5726, section 4 and equation 8) as pycocoevalcap 1.2 computes it
(`cider/cider_scorer.py`).

Kept from there: document frequencies come from the references of the evaluated set itself, so a set
of one image scores 0; the length penalty (sigma 6) compares numbers of bigrams; scores are scaled
by 10. No deviation.
"""

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.corpus import (
    Ngrams,
    Predictions,
    References,
    aligned,
    count_ngrams,
    matched_rows,
)

SIGMA = 6.0
ORDER = 4


def cider_scores(predictions: Predictions, references: References) -> Float[np.ndarray, " N"]:
    """CIDEr-D of each example, in [0, 10], in the order of `predictions`.

    Captions are tokenized. An example's score depends on the whole set. Raises ValueError as
    `corpus.aligned` does.
    """
    hypotheses, reference_lists = aligned(predictions, references)
    images = len(hypotheses)
    group = np.array([len(refs) for refs in reference_lists])
    image = np.concatenate([np.arange(images), np.repeat(np.arange(images), group)])
    captions = hypotheses + [reference for refs in reference_lists for reference in refs]
    tables = count_ngrams(captions, ORDER)
    bigrams = np.bincount(tables[1].caption, tables[1].count, len(captions))
    penalty = np.exp(-((bigrams[image] - bigrams) ** 2) / (2 * SIGMA**2))
    similarity = sum(_cosine_to_prediction(rows, image, images) for rows in tables) / ORDER
    return 10 * np.bincount(image[images:], (similarity * penalty)[images:], images) / group


def _cosine_to_prediction(
    rows: Ngrams, image: np.ndarray, images: int
) -> Float[np.ndarray, " captions"]:
    """Clipped TF-IDF cosine of each caption with its image's prediction; 0 without any weight."""
    if not rows.size:
        return np.zeros(len(image))
    of_reference = rows.caption >= images
    seen = np.unique(image[rows.caption[of_reference]] * rows.size + rows.ngram[of_reference])
    frequency = np.bincount(seen % rows.size, minlength=rows.size)  # images that refer to an n-gram
    weight = rows.count * (np.log(images) - np.log(np.maximum(frequency, 1)))[rows.ngram]
    norm = np.sqrt(np.bincount(rows.caption, weight**2, len(image)))
    match = matched_rows(rows, image, images)
    product = np.where(match >= 0, np.minimum(weight[match], weight) * weight, 0.0)
    dot = np.bincount(rows.caption, product, len(image))
    scale = norm * norm[image]
    return np.divide(dot, scale, out=np.zeros_like(dot), where=scale != 0)


def cider(predictions: Predictions, references: References) -> float:
    """Mean CIDEr-D of the corpus, in [0, 10]. Raises as `cider_scores` does."""
    return float(cider_scores(predictions, references).mean())
