"""A user's data.jsonl folder (see `vlm_jax.data.jsonl`) as a tfds data set: few large files,
fast to read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vlm_jax.data.builders import records
from vlm_jax.data.jsonl import FILE, Jsonl
from vlm_jax.data.schema import DataError


class JsonlFolder(tfds.core.GeneratorBasedBuilder):
    """One split per sub-folder that holds a data.jsonl, named like it; or split "all" of the
    folder.

    Every line becomes a record. Raises DataError for a bad line, naming it.
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
            return {"all": self._generate_examples(folder)}
        parts = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        if not parts:
            raise DataError(f"{folder}: nothing to build. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return {part.name: self._generate_examples(part) for part in parts}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        source = Jsonl(str(folder))
        for index in range(len(source)):
            example = source[index]
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
