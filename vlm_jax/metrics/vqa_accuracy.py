"""VQA accuracy (arXiv:1505.00468, section 4) with the normalisation of the official evaluator (VQA
`vqaEval.py`).

Kept from there: answers are compared raw if all annotators agree word for word; a comma between
digits makes all punctuation vanish instead of turning into spaces; a period goes unless a digit
follows (the look-behind of the official pattern is mistyped), and at most 32 of them; numbers up to
ten become digits, but "none" becomes "0" too.

Deviation: with fewer than four answers the leave-one-out rule cannot reach 1 (three matches among
the *other* answers are needed), so such sets score 1 for a normalised match with any answer and 0
otherwise.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.identity import check_ids

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    "none": "0",
    **{
        word: str(i)
        for i, word in enumerate("zero one two three four five six seven eight nine ten".split())
    },
}
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
""".split()
MISSPELT = {
    **{
        word[:i] + word[i + 1 :]: word
        for word in CONTRACTIONS
        for i, letter in enumerate(word)
        if letter == "'"
    },
    "somebody'd": "somebodyd",
}
"""A contraction with one apostrophe missing -> the contraction; and one slip of the official table.
"""

MATCHES_FOR_FULL_SCORE = 3
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalize_answer(answer: str) -> str:
    """The answer as the official evaluator compares it: lower case, no articles, little
    punctuation, digits.
    """
    text = _tidy(answer)
    squeeze = bool(_DIGIT_COMMA.search(text))
    stripped = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if squeeze or beside_space else " ")
    stripped = _PERIOD.sub("", stripped, count=_MOST_PERIODS)
    words = (NUMBERS.get(word, word) for word in stripped.lower().split())
    return " ".join(MISSPELT.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy_score(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer: min(1, matches among the others / 3), averaged over annotators.

    With fewer than four answers: 1.0 if any matches, else 0.0. Raises ValueError without answers.
    """
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers must be a non-empty list of strings, got {answers!r}")
    few = len(answers) <= MATCHES_FOR_FULL_SCORE
    agreed = not few and len(set(map(_tidy, answers))) == 1
    clean = _tidy if agreed else normalize_answer
    given = clean(prediction)
    matches = sum(clean(answer) == given for answer in answers)
    if few:
        return float(matches > 0)
    others = min(1.0, matches / MATCHES_FOR_FULL_SCORE)
    without_one = min(1.0, max(matches - 1, 0) / MATCHES_FOR_FULL_SCORE)
    return (matches * without_one + (len(answers) - matches) * others) / len(answers)


def vqa_accuracy_scores(
    predictions: Mapping[Any, str], answers: Mapping[Any, Sequence[str]]
) -> Float[np.ndarray, " N"]:
    """`vqa_accuracy_score` of each question, in the order of `predictions`.

    Raises ValueError, naming ids, if there are no predictions, if the ids differ, or if a question
    has no answer.
    """
    check_ids(predictions, answers)
    return np.array([vqa_accuracy_score(given, answers[key]) for key, given in predictions.items()])


def vqa_accuracy(predictions: Mapping[Any, str], answers: Mapping[Any, Sequence[str]]) -> float:
    """Mean accuracy over all questions, in [0, 1]. Raises as `vqa_accuracy_scores` does."""
    return math.fsum(vqa_accuracy_scores(predictions, answers)) / len(predictions)
