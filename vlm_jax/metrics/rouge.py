"""ROUGE-L of captions (Lin, 2004, section 3) as pycocoevalcap 1.2 computes it (`rouge/rouge.py`).

Kept from there: beta 1.2; the best precision and the best recall may come from different
references; tokens are separated by exactly one space, so an empty caption is one empty token. No
deviation. Not the `rouge_score` package's number.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.corpus import Predictions, References
from vlm_jax.metrics.identity import check_ids

BETA = 1.2


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token lists (bit-parallel: Hyyro, 2004)."""
    positions: dict[str, int] = {}
    for i, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << i
    every = (1 << len(first)) - 1
    row = every
    for token in second:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & every
    return len(first) - row.bit_count()


def rouge_l_score(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure of one tokenized caption, in [0, 1]."""
    tokens = prediction.split(" ")
    precision = recall = 0.0
    for reference in references:
        words = reference.split(" ")
        common = longest_common_subsequence(words, tokens)
        precision, recall = max(precision, common / len(tokens)), max(recall, common / len(words))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l_scores(predictions: Predictions, references: References) -> Float[np.ndarray, " N"]:
    """`rouge_l_score` of each example, in the order of `predictions`. Raises ValueError as
    `corpus.aligned` does.
    """
    check_ids(predictions, references)
    return np.array([rouge_l_score(said, references[key]) for key, said in predictions.items()])


def rouge_l(predictions: Predictions, references: References) -> float:
    """Mean ROUGE-L of the corpus, in [0, 1]. Raises as `rouge_l_scores` does."""
    return math.fsum(rouge_l_scores(predictions, references)) / len(predictions)
