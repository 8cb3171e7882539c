"""Scores of short answers beside VQA accuracy: exact match, relaxed accuracy, ANLS.

Exact match: equal after the normalisation of the official VQA evaluator.

Relaxed accuracy (ChartQA, arXiv:2203.10244, after PlotQA, arXiv:1909.00997): a number may be off
by 5 % of the true one, a percentage is a hundredth, anything else must be equal but for case. As in
the evaluation code in use, a true 0 must be met literally. Deviation: white space around an answer
is dropped, and "nan" and "inf" are words.

ANLS (ST-VQA, arXiv:1907.00490, equation 1): 1 - edit distance / length of the longer of the two,
in lower case with single spaces; 0 below one half. The best of the true answers counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.identity import check_ids
from vlm_jax.metrics.vqa_accuracy import normalize_answer

TOLERANCE = 0.05
ANLS_THRESHOLD = 0.5


def exact_match_score(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the normalised prediction is one of the normalised answers, else 0.0."""
    given = normalize_answer(prediction)
    return float(any(normalize_answer(answer) == given for answer in answers))


def relaxed_score(prediction: str, answers: Sequence[str], tolerance: float = TOLERANCE) -> float:
    """1.0 if the prediction is within `tolerance`, relative, of an answer that is a number, or
    equal to one but for case; else 0.0.
    """
    return float(any(_relaxed_match(prediction, answer, tolerance) for answer in answers))


def _relaxed_match(prediction: str, answer: str, tolerance: float) -> bool:
    given, true = _number(prediction), _number(answer)
    if given is None or not true:
        return prediction.strip().lower() == answer.strip().lower()
    return abs(given - true) <= tolerance * abs(true)


def _number(text: str) -> float | None:
    """The number that a text is, a percentage as a hundredth; None for other text."""
    text = text.strip()
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def anls_score(prediction: str, answers: Sequence[str]) -> float:
    """The best normalised Levenshtein similarity with an answer, in [0, 1]; 0 below one half."""
    given = " ".join(prediction.lower().split())
    best = 0.0
    for answer in answers:
        true = " ".join(answer.lower().split())
        longer = max(len(given), len(true))
        best = max(best, 1 - edit_distance(given, true) / longer if longer else 1.0)
    return best if best >= ANLS_THRESHOLD else 0.0


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Fewest insertions, deletions and substitutions from one to the other (Levenshtein).

    Bit-parallel, a column of the table at a time (Hyyro, 2003; Python integers have any width).
    """
    if not len(first):
        return len(second)
    positions: dict = {}
    for i, item in enumerate(first):
        positions[item] = positions.get(item, 0) | 1 << i
    every = (1 << len(first)) - 1
    last = 1 << (len(first) - 1)
    rises, falls, distance = every, 0, len(first)  # differences down a column: +1 and -1
    for item in second:
        match = positions.get(item, 0)
        level = (((match & rises) + rises) ^ rises) | match | falls
        right_up, right_down = falls | (every & ~(level | rises)), rises & level
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & every, right_down << 1 & every
        rises, falls = right_down | (every & ~(level | right_up)), right_up & level
    return distance


def answer_scores(
    predictions: Mapping[Any, str], answers: Mapping[Any, Sequence[str]]
) -> dict[str, Float[np.ndarray, " N"]]:
    """The scores "exact_match", "relaxed_accuracy" and "ANLS" of each question, in the order of
    `predictions`.

    Raises ValueError, naming ids, if there are no predictions, if the ids differ, if a question has
    no answer, or if a prediction is not a string.
    """
    check_ids(predictions, answers)
    scorers = {
        "exact_match": exact_match_score,
        "relaxed_accuracy": relaxed_score,
        "ANLS": anls_score,
    }
    return {
        name: np.array([scorer(given, answers[key]) for key, given in predictions.items()])
        for name, scorer in scorers.items()
    }
