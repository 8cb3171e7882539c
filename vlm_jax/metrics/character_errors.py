"""Character error rate, the score of text that was read off a picture or a page.

Edits (Levenshtein) needed to turn what was read into the true text, over the characters of the true
text, each summed over all texts, as speech and handwriting recognition score it (word error rate on
characters). It can exceed 1. Unicode is compared composed (NFC), so "é" is one character however it
was typed; white space counts as one space, none at the ends; case and punctuation count.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.identity import check_ids
from vlm_jax.metrics.text_answers import edit_distance


def character_errors(
    predictions: Mapping[Any, str], answers: Mapping[Any, Sequence[str]]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Edits, and characters of the true answer, of each text in the order of `predictions`; of
    several answers, the one with the lowest rate counts. Their sums make the rate, `mean_of(name,
    edits, characters)`.

    Raises ValueError, naming ids, as `answer_scores` does.
    """
    check_ids(predictions, answers)
    pairs = [_errors(given, answers[key]) for key, given in predictions.items()]
    edits, characters = np.array(pairs, np.float64).T
    return edits, characters


def _errors(prediction: str, answers: Sequence[str]) -> tuple[int, int]:
    given = _tidy(prediction)
    pairs = [(edit_distance(given, true), len(true)) for true in map(_tidy, answers)]
    return min(pairs, key=lambda pair: (pair[0] / max(pair[1], 1), pair[0]))


def _tidy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
