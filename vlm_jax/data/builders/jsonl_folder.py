"""A user's data.jsonl folder (see `vlm_jax.data.jsonl`) as a tfds data set: few large files,
fast to read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vlm_jax.data.builders import records
from vlm_jax.data.jsonl import FILE, Jsonl
from vlm_jax.data.schema import DataError
from vlm_jax.data.turns import pictures_of


class JsonlFolder(tfds.core.GeneratorBasedBuilder):
    """Split "train" of a folder that holds a data.jsonl; or a split per sub-folder that does.

    Such a split is named like its sub-folder. Every line becomes a record. Raises DataError for a
    bad line, naming it, and for a sub-folder that no split can be named like.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"A folder with {FILE}, or with train/{FILE}, test/{FILE} and so on."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A user's own images and texts.",
            features=records.features(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        if (folder / FILE).is_file():
            return {"train": self._generate_examples(folder)}
        parts = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        if not parts:
            raise DataError(f"{folder}: nothing to build. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        for part in parts:
            if part.name == "all" or not re.fullmatch(r"\w+", part.name):  # tfds cannot read these
                raise DataError(f"{part}: rename it; letters, digits and _ name a split, not 'all'")
        return {part.name: self._generate_examples(part) for part in parts}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        source = Jsonl(str(folder))
        for index in range(len(source)):
            example = source[index]
            if len(pictures_of(example)) != 1:
                raise DataError(
                    f"{folder / FILE}, example {example['id']}: a record holds one picture; train "
                    "on conversations from the folder itself, as a source of the name jsonl"
                )
            yield (
                example["id"],
                records.record(
                    example["id"],
                    Path(str(example["image"])),
                    example["captions"],
                    example["questions"],
                    example.get("label", ""),
                ),
            )
