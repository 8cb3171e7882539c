"""The baseline that looks but does not understand: the answer given about the training picture
whose pixels are nearest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_jax.data import images
from vlm_jax.data.pipeline import InputReader
from vlm_jax.data.schema import DataError, Example, Source

SIDE = 32
"""Rows and columns of grey pixels that are compared."""


def nearest_answers(
    read: InputReader, asked: Mapping[Any, Example], train: Source, count: int
) -> dict[Any, str]:
    """By key of `asked`, whose examples have one question each: the answer to the same question
    about one of the first `count` training pictures, the one with the highest correlation of grey
    pixels; "" if the question is asked about none of them. Unreadable pictures have no neighbour
    and are none.

    Raises ValueError for a reader that does not make plain pictures of one size.
    """
    rows, answers = [], []
    for number in range(min(count, len(train))):
        example = train[number]
        vector = _pixels(read, example)
        if vector is not None:
            rows.append(vector)
            answers.append({q["question"]: q["answers"][0] for q in example["questions"]})
    table = np.stack(rows) if rows else np.zeros((0, SIDE * SIDE), np.float32)
    with_question: dict[str, np.ndarray] = {}
    found = {}
    for key, example in asked.items():
        question = example["questions"][0]["question"]
        if question not in with_question:
            with_question[question] = np.flatnonzero([question in known for known in answers])
        known, vector = with_question[question], _pixels(read, example)
        if vector is None or not len(known):
            found[key] = ""
        else:
            found[key] = answers[known[np.argmax(table[known] @ vector)]][question]
    return found


def _pixels(read: InputReader, example: Example) -> np.ndarray | None:
    """Grey pixels with mean 0 and length 1, f32[SIDE * SIDE]; None if they cannot be read."""
    try:
        pixels, _ = read(example["image"], None)
    except DataError:
        return None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(
            "the nearest training picture is found among plain pictures of one size: leave "
            "nearest=0 for videos, features and pictures that keep their proportions"
        )
    grey = images.resize(pixels, SIDE, SIDE, "box").mean(axis=-1, dtype=np.float32).reshape(-1)
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)
