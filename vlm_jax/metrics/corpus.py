"""What the caption metrics share: aligned predictions and references, and counted n-grams as
arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

Predictions = Mapping[Any, str]
"""Example id -> tokenized caption, tokens separated by spaces."""

References = Mapping[Any, Sequence[str]]
"""Example id -> tokenized reference captions, at least one."""


def check_ids(predictions: Mapping[Any, object], references: Mapping[Any, Sequence[str]]) -> None:
    """Raises ValueError, naming up to five ids, if predictions and references do not belong
    together.

    That is: no predictions at all, ids on one side only, or an id whose list of references is empty
    or one string.
    """
    if not predictions:
        raise ValueError("there are no predictions to score")
    faults = {
        "without a prediction": [key for key in references if key not in predictions],
        "predicted but without references": [key for key in predictions if not references.get(key)],
        "with one string where a list of references belongs": [
            key for key, group in references.items() if isinstance(group, str)
        ],
    }
    for fault, ids in faults.items():
        if ids:
            named = ", ".join(map(repr, ids[:5])) + ", ..." * (len(ids) > 5)
            raise ValueError(f"{len(ids)} ids {fault}: {named}")


def aligned(predictions: Predictions, references: References) -> tuple[list[str], list[list[str]]]:
    """Predictions and references in the order of `predictions`. Raises ValueError as `check_ids`
    does.

    An empty caption is allowed: a model may say nothing.
    """
    check_ids(predictions, references)
    return list(predictions.values()), [list(references[key]) for key in predictions]


class Ngrams(NamedTuple):
    """The distinct n-grams of each caption, for one n: row r says caption[r] holds ngram[r]
    count[r] times.

    Rows are sorted by caption, then by ngram. size: number of distinct n-grams over all captions.
    """

    caption: Int[np.ndarray, " R"]
    ngram: Int[np.ndarray, " R"]
    count: Int[np.ndarray, " R"]
    size: int


def count_ngrams(captions: Sequence[str], order: int) -> list[Ngrams]:
    """The n-grams of every caption, for n = 1 ... order. White space separates tokens."""
    tokens = [caption.split() for caption in captions]
    lengths = np.array([len(words) for words in tokens], np.int64)
    vocabulary: dict[str, int] = {}
    word = np.array(
        [vocabulary.setdefault(w, len(vocabulary)) for words in tokens for w in words], np.int64
    )
    caption = np.repeat(np.arange(len(captions)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(
        len(word)
    )  # tokens from here to the end
    ngram, size, found = word, len(vocabulary), []
    for n in range(1, order + 1):
        start = np.flatnonzero(left >= n)
        if n > 1:  # an n-gram is an (n-1)-gram and a word; numbered anew, lest the product overflow
            pair = ngram[start] * max(len(vocabulary), 1) + word[start + n - 1]
            distinct, number = np.unique(pair, return_inverse=True)
            size, ngram = len(distinct), np.zeros_like(word)
            ngram[start] = number.reshape(-1)
        rows, count = np.unique(caption[start] * max(size, 1) + ngram[start], return_counts=True)
        found.append(Ngrams(*np.divmod(rows, max(size, 1)), count, size))
    return found


def matched_rows(
    rows: Ngrams, image: Int[np.ndarray, " captions"], images: int
) -> Int[np.ndarray, " R"]:
    """For each row, the row of the same n-gram in the prediction of the same image, or -1.

    The first `images` captions are the predictions, caption i that of image i; `image` says whose
    reference each of the others is, and holds 0 ... images - 1 in front.
    """
    split = np.searchsorted(rows.caption, images)
    if not split:
        return np.full(len(rows.caption), -1)
    keys = rows.caption[:split] * rows.size + rows.ngram[:split]
    wanted = image[rows.caption] * rows.size + rows.ngram
    place = np.minimum(np.searchsorted(keys, wanted), split - 1)
    return np.where(keys[place] == wanted, place, -1)
