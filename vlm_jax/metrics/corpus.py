"""What the caption metrics share: aligned predictions and references, and counted n-grams as
arrays.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from vlm_jax.metrics.identity import check_ids, in_id_order

Predictions = Mapping[Any, str]
"""Example id -> tokenized caption, tokens separated by spaces."""

References = Mapping[Any, Sequence[str]]
"""Example id -> tokenized reference captions, at least one."""


class Ngrams(NamedTuple):
    """The distinct n-grams of each caption, for one n: row r says caption[r] holds ngram[r]
    count[r] times.

    Rows are sorted by caption, then by ngram. size: number of distinct n-grams over all captions.
    """

    caption: Int[np.ndarray, " R"]
    ngram: Int[np.ndarray, " R"]
    count: Int[np.ndarray, " R"]
    size: int


class Corpus(NamedTuple):
    """Captions as counted n-grams, predictions first: caption i < images is the one of image i.

    image: the image of each caption; it starts with 0 ... images - 1, and the references follow,
    grouped by image. length: tokens per caption. tables: `Ngrams` for n = 1 ... order.
    """

    images: int
    image: Int[np.ndarray, " captions"]
    length: Int[np.ndarray, " captions"]
    tables: list[Ngrams]


def aligned(predictions: Predictions, references: References) -> tuple[list[str], list[list[str]]]:
    """Predictions and references in the order of their ids. Raises ValueError as `check_ids` does.

    An empty caption is allowed: a model may say nothing.
    """
    check_ids(predictions, references)
    ids = in_id_order(predictions)
    return [predictions[key] for key in ids], [list(references[key]) for key in ids]


def place_of(predictions: Mapping[Any, Any]) -> Int[np.ndarray, " N"]:
    """Where in the order of ids each example stands: takes results back to the given order."""
    places = {key: place for place, key in enumerate(in_id_order(predictions))}
    return np.array([places[key] for key in predictions], np.int64)


def count_corpus(hypotheses: Sequence[str], references: Sequence[Sequence[str]], order: int = 4):
    """The `Corpus` of tokenized captions and their references."""
    images = np.arange(len(hypotheses))
    image = np.concatenate([images, np.repeat(images, [len(group) for group in references])])
    word, length, words = encode([*hypotheses, *chain.from_iterable(references)])
    return Corpus(len(hypotheses), image, length, count_ngrams(word, length, words, order))


def encode(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """(int64[tokens] word numbers of all captions, int64[captions] lengths, number of words).

    White space separates tokens. Words are numbered in the order in which they first occur.
    """
    mark = "\0"
    while any(mark in caption for caption in captions):
        mark += "\0"
    tokens = f" {mark} ".join([*captions, ""]).split()  # the mark ends each caption
    number = {mark: 0}
    for token in dict.fromkeys(tokens):
        number.setdefault(token, len(number))
    found = np.fromiter(map(number.__getitem__, tokens), np.int64, len(tokens))
    ends = np.flatnonzero(found == 0)
    return found[found > 0] - 1, np.diff(ends, prepend=-1) - 1, len(number) - 1


def count_ngrams(word: np.ndarray, length: np.ndarray, words: int, order: int) -> list[Ngrams]:
    """The n-grams of every caption, for n = 1 ... order, from what `encode` returns."""
    caption = np.repeat(np.arange(len(length)), length)
    left = np.repeat(np.cumsum(length), length) - np.arange(len(word))  # tokens from here to end
    ngram, size, found = word, words, []
    for n in range(1, order + 1):
        start = np.flatnonzero(left >= n)
        if n > 1:  # an n-gram is an (n-1)-gram and a word; numbered anew, lest the product overflow
            pair = ngram[start] * max(words, 1) + word[start + n - 1]
            size, ngram = _numbered(pair, start, len(word))
        width = max(size, 1)
        keys = np.sort(caption[start] * width + ngram[start])
        first = np.flatnonzero(_changes(keys))
        holder = keys[first] // width
        count = np.diff(first, append=len(keys))
        found.append(Ngrams(holder, keys[first] - holder * width, count, size))
    return found


def _numbered(pair: np.ndarray, start: np.ndarray, tokens: int) -> tuple[int, np.ndarray]:
    """How many different values there are, and at each start the number of its value.

    Sorting: since NumPy 2.3 `numpy.unique` hashes, which takes twenty times as long here.
    """
    order = np.argsort(pair)
    number = np.cumsum(_changes(pair[order])) - 1
    ngram = np.zeros(tokens, np.int64)
    ngram[start[order]] = number
    return int(number[-1]) + 1 if len(number) else 0, ngram


def distinct(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The different values, in ascending order."""
    ordered = np.sort(values)
    return ordered[_changes(ordered)]


def _changes(ordered: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where sorted values begin to differ from the one before."""
    return np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]])


def matched_rows(rows: Ngrams, corpus: Corpus) -> Int[np.ndarray, " R"]:
    """For each row, the row of the same n-gram in the prediction of the same image, or -1."""
    split = int(np.searchsorted(rows.caption, corpus.images))
    if not split:
        return np.full(len(rows.caption), -1)
    keys = rows.caption[:split] * rows.size + rows.ngram[:split]
    wanted = corpus.image[rows.caption] * rows.size + rows.ngram
    place = np.minimum(np.searchsorted(keys, wanted), split - 1)
    return np.where(keys[place] == wanted, place, -1)
