"""VQA v2.0 (arXiv:1612.00837) from its official files, as a tfds builder: one record per image."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vlm_jax.data.builders import records
from vlm_jax.data.schema import DataError

_PARTS = {"train": "train2014", "validation": "val2014"}


class Vqav2(tfds.core.GeneratorBasedBuilder):
    """Splits "train" (82,783 images, 443,757 questions) and "validation" (40,504 and 214,354).

    Ten answers per question; its type is the official answer type: "yes/no", "number" or "other".
    A split whose question file is missing is left out. The test splits have no answers and are not
    built. Parsing the train annotations takes about 4 GB of memory.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
From https://visualqa.org/download.html and https://cocodataset.org/#download, in one folder:
  v2_OpenEnded_mscoco_{train2014,val2014}_questions.json
  v2_mscoco_{train2014,val2014}_annotations.json
  train2014/COCO_train2014_000000000009.jpg ...
  val2014/COCO_val2014_000000000042.jpg ..."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Questions about COCO images, ten human answers each.",
            homepage="https://visualqa.org",
            features=records.features(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        files = {split: _questions_file(part) for split, part in _PARTS.items()}
        records.present(folder, list(files.values()), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        return {
            split: self._generate_examples(folder, _PARTS[split])
            for split, file in files.items()
            if (folder / file).exists()
        }

    def _generate_examples(self, folder: Path, part: str) -> Iterator[tuple[int, dict[str, Any]]]:
        annotations_file = f"v2_mscoco_{part}_annotations.json"
        path = records.present(folder, [annotations_file], self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        annotations = {row["question_id"]: row for row in _read(path)["annotations"]}
        questions = defaultdict(list)
        for row in _read(folder / _questions_file(part))["questions"]:
            if row["question_id"] not in annotations:
                raise DataError(f"{path} has no answers to question {row['question_id']}")
            questions[row["image_id"]].append(_question(row, annotations[row["question_id"]]))
        for image, asked in questions.items():
            file = folder / part / f"COCO_{part}_{image:012d}.jpg"
            yield image, records.record(str(image), file, questions=asked)


def _questions_file(part: str) -> str:
    """The official name of the file with the questions of a part."""
    return f"v2_OpenEnded_mscoco_{part}_questions.json"


def _read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _question(row: dict[str, Any], annotation: dict[str, Any]) -> Any:
    """A question as examples hold it, with its official id for submissions."""
    return {
        "id": row["question_id"],
        "question": row["question"],
        "answers": [answer["answer"] for answer in annotation["answers"]],
        "type": annotation["answer_type"],
    }
