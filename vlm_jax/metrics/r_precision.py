"""R-precision of captions: does a caption fit its own picture better than others'?

The measure of arXiv:1711.10485, section 5, with words in place of an image-text model: a caption is
compared with the references of its own picture and of others, and counts if its own comes first.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax.metrics.bootstrap import Measure, mean_of
from vlm_jax.metrics.identity import check_ids, in_id_order
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize

CANDIDATES = 100
"""Pictures a caption is compared with, its own included, as in the paper."""


def r_precision(
    predictions: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> np.ndarray:
    """f64[n] in [0, 1], in the order of ids: 1 if the caption's own picture comes first among
    `candidates` of the set, 1/m if it shares the first place with m - 1 others, else 0.

    Compared are words weighted by their rarity among the references (cosine, the best reference of
    each picture). Sets with fewer pictures use all. Raises ValueError as `check_ids` does.
    """
    check_ids(predictions, references)
    ids = in_id_order(predictions)
    groups = [[_words(text) for text in references[key]] for key in ids]
    seen = Counter(word for group in groups for word in set().union(*group))
    rarity = {word: math.log((1 + len(ids)) / count) for word, count in seen.items()}
    unit = [[_unit(words, rarity) for words in group] for group in groups]
    rng, scores = np.random.default_rng(seed), []
    for own, key in enumerate(ids):
        others = np.delete(np.arange(len(ids)), own)
        drawn = rng.permutation(others)[: candidates - 1]
        caption = _unit(_words(predictions[key]), rarity)
        mine = _nearest(caption, unit[own])
        theirs = np.array([_nearest(caption, unit[place]) for place in drawn] or [-1.0])
        # Equal words give equal sums up to rounding; identical names are one candidate as any.
        first = mine > 0 and not (theirs > mine + 1e-9).any()
        scores.append(first / (1 + np.sum(np.abs(theirs - mine) <= 1e-9)))
    return np.array(scores, np.float64)


def r_precision_measure(
    predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]], **options: Any
) -> Measure:
    """R-precision for `bootstrap.score`. options and errors: as for `r_precision`."""
    return mean_of("R-precision", r_precision(predictions, references, **options))


def _words(text: str) -> Counter[str]:
    return Counter(ptb_tokenize(text).split())


def _unit(words: Counter[str], rarity: Mapping[str, float]) -> dict[str, float]:
    """Weighted counts of length 1; empty if no word is known."""
    weighted = {word: n * rarity[word] for word, n in words.items() if rarity.get(word)}
    length = math.sqrt(math.fsum(x * x for x in weighted.values()))
    return {word: x / length for word, x in weighted.items()} if length else {}


def _nearest(caption: Mapping[str, float], texts: Sequence[Mapping[str, float]]) -> float:
    """The cosine of a caption and the most similar of some texts."""
    return max(_dot(caption, text) for text in texts)


def _dot(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    return math.fsum(x * b[word] for word, x in a.items() if word in b)
