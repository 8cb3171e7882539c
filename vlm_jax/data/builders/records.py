"""The one record structure that all tfds builders of this codebase write, and that `Tfds` reads
back.

One record per image. tfds has no sequence inside a sequence that works without TensorFlow, so the
answers of all questions lie in one list, and each question says how many of them are its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vlm_jax.data.schema import DataError, Question


def features() -> tfds.features.FeaturesDict:
    """The structure: images stay the bytes of their file; "" stands for an absent label."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "questions": tfds.features.Sequence(
                {
                    "id": tfds.features.Text(),
                    "question": tfds.features.Text(),
                    "type": tfds.features.Text(),
                    "answers": np.int64,
                }
            ),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "label": tfds.features.Text(),
        }
    )


def record(
    identifier: str,
    image: Path,
    captions: Sequence[str] = (),
    questions: Sequence[Question] = (),
    label: str = "",
) -> dict[str, Any]:
    """One image and its texts in the structure of `features`. Raises DataError if the file is
    missing.
    """
    if not image.is_file():
        raise DataError(f"there is no image {image}; complete the folder and build again")
    return {
        "id": identifier,
        "image": str(image),
        "captions": list(captions),
        "questions": [
            {
                "id": str(question.get("id", position)),
                "question": question["question"],
                "type": question.get("type", ""),
                "answers": len(question["answers"]),
            }
            for position, question in enumerate(questions)
        ],
        "answers": [answer for question in questions for answer in question["answers"]],
        "label": label,
    }


def present(folder: Path, names: Sequence[str], instructions: str) -> Path:
    """The first of these files or folders that exists. Raises DataError with the instructions."""
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise DataError(f"{folder} holds no {' or '.join(names)}.\n{instructions}")
    return found
