"""CIDEr-D (arXiv:1411.5726, section 4 and equation 8) as pycocoevalcap 1.2 computes it
(`cider/cider_scorer.py`).

Kept from there: document frequencies come from the references of the evaluated set itself, so a set
of one image scores 0; the length penalty (sigma 6) compares numbers of bigrams; scores are scaled
by 10. No deviation.
"""

import math

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.corpus import (
    Corpus,
    Ngrams,
    Predictions,
    References,
    aligned,
    count_corpus,
    distinct,
    matched_rows,
    place_of,
)

SIGMA = 6.0
ORDER = 4


def cider_scores(predictions: Predictions, references: References) -> Float[np.ndarray, " N"]:
    """CIDEr-D of each example, in [0, 10], in the order of `predictions`.

    Captions are tokenized. An example's score depends on the whole set. Raises ValueError as
    `corpus.aligned` does.
    """
    corpus = count_corpus(*aligned(predictions, references), ORDER)
    return cider_of_corpus(corpus)[place_of(predictions)]


def cider_of_corpus(corpus: Corpus) -> Float[np.ndarray, " N"]:
    """`cider_scores` of n-grams that are counted already, n = 1 ... 4; one score per image."""
    image, images = corpus.image, corpus.images
    bigrams = np.maximum(corpus.length - 1, 0)
    penalty = np.exp(-((bigrams[image] - bigrams) ** 2) / (2 * SIGMA**2))
    similarity = sum(_cosine_to_prediction(rows, corpus) for rows in corpus.tables) / ORDER
    total = np.bincount(image[images:], (similarity * penalty)[images:], images)
    return 10 * total / np.bincount(image[images:], minlength=images)


def _cosine_to_prediction(rows: Ngrams, corpus: Corpus) -> Float[np.ndarray, " captions"]:
    """Clipped TF-IDF cosine of each caption with its image's prediction; 0 without any weight."""
    image, images = corpus.image, corpus.images
    if not rows.size:
        return np.zeros(len(image))
    split = np.searchsorted(rows.caption, images)  # references follow the predictions
    seen = distinct(image[rows.caption[split:]] * rows.size + rows.ngram[split:])
    frequency = np.bincount(seen % rows.size, minlength=rows.size)  # images that refer to an n-gram
    weight = rows.count * (np.log(images) - np.log(np.maximum(frequency, 1)))[rows.ngram]
    norm = np.sqrt(np.bincount(rows.caption, weight**2, len(image)))
    match = matched_rows(rows, corpus)
    product = np.where(match >= 0, np.minimum(weight[match], weight) * weight, 0.0)
    dot = np.bincount(rows.caption, product, len(image))
    scale = norm * norm[image]
    return np.divide(dot, scale, out=np.zeros_like(dot), where=scale != 0)


def cider(predictions: Predictions, references: References) -> float:
    """Mean CIDEr-D of the corpus, in [0, 10]. Raises as `cider_scores` does."""
    return math.fsum(cider_scores(predictions, references)) / len(predictions)
