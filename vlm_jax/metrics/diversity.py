"""How varied captions are: distinct-n, the share of novel captions, and vocabulary.

distinct-n (arXiv:1510.03055, section 5): different n-grams over all n-grams of all captions. A
novel caption is none of the training captions, compared as tokens.

Drawing captions with replacement repeats n-grams and pushes distinct-n down, so the intervals of
distinct-n and of the vocabulary are not bootstrap intervals but the value +- 1.96 standard errors
of the jackknife (each caption left out once; Efron and Stein, 1981).
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vlm_jax.metrics.bootstrap import Score, mean_of, score
from vlm_jax.metrics.corpus import Ngrams, count_ngrams, encode
from vlm_jax.metrics.identity import in_id_order

ORDERS = (1, 2)
_NORMAL_95 = 1.959963984540054


def diversity(
    captions: Mapping[Any, str], training: Collection[str] | None = None
) -> dict[str, Score]:
    """The numbers "distinct-1", "distinct-2", "vocabulary" (different words), "words_per_caption",
    and "novel" if tokenized `training` captions are given.

    captions: id -> tokenized caption. Raises ValueError without captions.
    """
    if not captions:
        raise ValueError("there are no captions to describe")
    texts = [captions[key] for key in in_id_order(captions)]
    word, length, words = encode(texts)
    tables = count_ngrams(word, length, words, max(ORDERS))
    found = {f"distinct-{n}": _distinct(tables[n - 1], len(texts)) for n in ORDERS}
    found["vocabulary"] = _distinct(tables[0], len(texts), share=False)
    means = [mean_of("words_per_caption", length)]
    if training is not None:
        seen = {" ".join(text.split()) for text in training}
        novel = [" ".join(text.split()) not in seen for text in texts]
        means.append(mean_of("novel", np.array(novel)))
    return found | score(means)


def _distinct(rows: Ngrams, captions: int, share: bool = True) -> Score:
    """Different n-grams, over all n-grams if `share`, with the interval of the jackknife."""
    holders = np.bincount(rows.ngram, minlength=rows.size)
    alone = np.bincount(rows.caption[holders[rows.ngram] == 1], minlength=captions)
    each = np.bincount(rows.caption, rows.count, captions)
    total = each.sum() if share else 1.0
    without = (rows.size - alone) / np.maximum(total - each if share else 1.0, 1)
    value = rows.size / max(total, 1)
    error = math.sqrt((captions - 1) / captions * ((without - without.mean()) ** 2).sum())
    low, high = value - _NORMAL_95 * error, value + _NORMAL_95 * error
    return Score(value, max(low, 0.0), min(high, 1.0) if share else high, captions)
