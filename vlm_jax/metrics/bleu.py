"""BLEU-1 ... BLEU-4 of captions (Papineni et al., ACL 2002), as pycocoevalcap 1.2 computes them
(`bleu/bleu_scorer.py`).

Kept from there: the closest reference length, the shorter of two equally close; 1e-15 added to
every count of matches and 1e-9 to every count of guesses, so that a caption without a match scores
almost, but not exactly, 0. No deviation.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.metrics.corpus import (
    Corpus,
    Ngrams,
    Predictions,
    References,
    aligned,
    count_corpus,
    matched_rows,
    place_of,
)

TINY, SMALL = 1e-15, 1e-9


class BleuStatistics(NamedTuple):
    """Counts per example; summed over examples they are the state of the corpus score."""

    correct: Int[np.ndarray, "N order"]
    guessed: Int[np.ndarray, "N order"]
    length: Int[np.ndarray, " N"]
    reference_length: Int[np.ndarray, " N"]


def bleu_statistics(
    predictions: Predictions, references: References, order: int = 4
) -> BleuStatistics:
    """Clipped matches, guesses and lengths (tokens) of each example, in the order of `predictions`.

    Raises ValueError as `corpus.aligned` does.
    """
    corpus = count_corpus(*aligned(predictions, references), order)
    place = place_of(predictions)
    return BleuStatistics(*(field[place] for field in bleu_of_corpus(corpus)))


def bleu_of_corpus(corpus: Corpus) -> BleuStatistics:
    """`bleu_statistics` of n-grams that are counted already, one row per image."""
    length, images = corpus.length, corpus.images
    correct = np.stack([_clipped_matches(rows, corpus) for rows in corpus.tables], axis=1)
    guessed = np.maximum(length[:images, None] - np.arange(len(corpus.tables)), 0)
    return BleuStatistics(correct, guessed, length[:images], _closest_lengths(corpus))


def _clipped_matches(rows: Ngrams, corpus: Corpus) -> Int[np.ndarray, " N"]:
    """How many n-grams of each prediction are matched, each at most as often as in one of its
    references.
    """
    match, images = matched_rows(rows, corpus), corpus.images
    split = np.searchsorted(rows.caption, images)
    shared = split + np.flatnonzero(match[split:] >= 0)
    best = np.zeros(split, np.int64)  # highest reference count of each prediction row
    np.maximum.at(best, match[shared], rows.count[shared])
    clipped = np.minimum(best, rows.count[: len(best)])
    return np.bincount(rows.caption[: len(best)], clipped, images).astype(np.int64)


def _closest_lengths(corpus: Corpus) -> Int[np.ndarray, " N"]:
    """The reference length closest to each prediction's; of two equally close the shorter."""
    of, reference = corpus.image[corpus.images :], corpus.length[corpus.images :]
    longest = int(corpus.length.max(initial=0)) + 1
    distance = np.abs(reference - corpus.length[of])
    first = np.searchsorted(of, np.arange(corpus.images))
    return np.minimum.reduceat(distance * longest + reference, first) % longest


def bleu_from_statistics(statistics: BleuStatistics) -> Float[np.ndarray, "*batch order"]:
    """BLEU-1 ... BLEU-order in [0, 1], of per-example statistics or of their sums over axis 0."""
    correct, guessed, length, reference_length = (
        np.asarray(field, np.float64) for field in statistics
    )
    precision = np.cumprod((correct + TINY) / (guessed + SMALL), axis=-1)
    ratio = (length + TINY) / (reference_length + SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision ** (1 / np.arange(1, correct.shape[-1] + 1)) * brevity[..., None]


def bleu(
    predictions: Predictions, references: References, order: int = 4
) -> Float[np.ndarray, " order"]:
    """BLEU-1 ... BLEU-order of the corpus, in [0, 1]. Captions are tokenized. Raises as
    `bleu_statistics` does.
    """
    statistics = bleu_statistics(predictions, references, order)
    return bleu_from_statistics(BleuStatistics(*(field.sum(axis=0) for field in statistics)))
