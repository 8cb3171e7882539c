"""Flickr30k (Young et al., TACL 2014) with the splits of arXiv:1412.2306, as a tfds builder."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vlm_jax.data.builders import records
from vlm_jax.data.schema import DataError

_ANNOTATIONS = ("dataset_flickr30k.json", "flickr_annotations_30k.csv")
_IMAGES = ("flickr30k-images", "flickr30k_images")
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


class Flickr30k(tfds.core.GeneratorBasedBuilder):
    """Splits "train" (29,000 images), "validation" (1,014) and "test" (1,000), 5 captions each."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
In one folder: flickr30k-images/ (from https://shannon.cs.illinois.edu/DenotationGraph/) and either
dataset_flickr30k.json (from https://cs.stanford.edu/people/karpathy/deepimagesent/) or
flickr_annotations_30k.csv (columns raw, split, filename; raw is a JSON list of captions)."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs of people and animals doing things, five captions each.",
            homepage="https://shannon.cs.illinois.edu/DenotationGraph/",
            features=records.features(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        path = records.present(folder, _ANNOTATIONS, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        images = records.present(folder, _IMAGES, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        rows = _READERS[path.suffix](path)
        known = {part for _, part, _ in rows}
        if not known or not known <= set(_SPLITS.values()):
            raise DataError(
                f"{path}: splits {sorted(known)}; expected some of {list(_SPLITS.values())}"
            )
        return {
            split: self._generate_examples(images, [row for row in rows if row[1] == part])
            for split, part in _SPLITS.items()
            if part in known
        }

    def _generate_examples(
        self, images: Path, rows: list[tuple[str, str, list[str]]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for filename, _, captions in rows:
            yield filename, records.record(filename, images / filename, captions)


def _from_json(path: Path) -> list[tuple[str, str, list[str]]]:
    """(file name, split, captions) of every image of dataset_flickr30k.json."""
    return [
        (row["filename"], row["split"], [sentence["raw"] for sentence in row["sentences"]])
        for row in json.loads(path.read_text(encoding="utf-8"))["images"]
    ]


def _from_csv(path: Path) -> list[tuple[str, str, list[str]]]:
    """(file name, split, captions) of every image of flickr_annotations_30k.csv."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            (row["filename"], row["split"], json.loads(row["raw"])) for row in csv.DictReader(file)
        ]


_READERS = {".json": _from_json, ".csv": _from_csv}
