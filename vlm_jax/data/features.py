"""What frozen encoders made of a data set, kept as array files and read back instead of pictures
and texts. `vlm_jax.features` computes them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.data.cache import cache_folder
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.video_images import ShuffledVideo, VideoFile, VideoPixels

COMPLETE = "complete.json"


class Cached:
    """The examples of `pictures` with two more keys.

    features: {"pooled": f32[D], "tokens": f16[S, D]}, what a vision encoder made of the image, the
    latter only if `tokens`; text_features: f32[N, D], a text encoder's vectors of the N captions.
    The loader hands them to the model in place of image and texts. Examples whose picture could not
    be read have no features, so that reading them says why. images, texts: folders that
    `vlm_jax.features` wrote, or None for neither key.

    DataError for a damaged folder, or one of another data set.
    """

    def __init__(
        self, pictures: Source, images: Path | None, texts: Path | None, tokens: bool = True
    ) -> None:
        self.name, self.pictures = pictures.name, pictures
        self.images, self.texts = images, texts
        self._arrays = {} if images is None else read_arrays(images)[0]
        if not tokens:
            self._arrays.pop("tokens", None)
        if images is not None and len(self._arrays["sound"]) != len(pictures):
            raise DataError(f"{images} belongs to other data; delete it and run again")
        vectors, rows = ({}, []) if texts is None else read_arrays(texts)
        self._vectors = vectors.get("texts")
        self._rows = {text: row for row, text in enumerate(rows)}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Example:
        example: Any = dict(self.pictures[index])
        if self._arrays and self._arrays["sound"][index]:
            names = [name for name in ("pooled", "tokens") if name in self._arrays]
            example["features"] = {name: np.array(self._arrays[name][index]) for name in names}
        if self._vectors is not None:
            rows = [self._rows[text] for text in example["captions"]]
            example["text_features"] = np.array(self._vectors[rows])
        return example


def read_arrays(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The memory-mapped arrays of a folder by name, and the texts that its rows belong to.

    DataError if it is damaged.
    """
    try:
        summary = json.loads((folder / COMPLETE).read_text("utf-8"))
        load = lambda name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        # As plain arrays: rows of a np.memmap take thrice as long to make.
        arrays = {name: np.asarray(load(name)) for name in summary["arrays"]}
        texts = summary["texts"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder} is damaged ({error}); delete it and run again") from None
    found = {name: list(array.shape) for name, array in arrays.items()}
    if found != summary["arrays"]:
        raise DataError(f"{folder} holds {found}, not {summary['arrays']}; delete it and run again")
    return arrays, texts


def fingerprint(settings: Mapping[str, Any], rows: Iterable[Any]) -> str:
    """32 characters that change with how features are made, and of what.

    settings, rows: JSON values, such as digests of encoders, and texts or `identities`.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:32]


def identities(source: Source) -> Iterator[Any]:
    """What tells one picture from another: of files, videos too, path, size and time of change; of
    pictures and frames in memory, their contents; of generated ones, the id alone.
    """
    for index in range(len(source)):
        example = source[index]
        yield example["id"], identity(example["image"])


def identity(image: Any) -> Any:
    """Of one picture, as `identities` says: a JSON value that changes with it, without decoding."""
    if isinstance(image, str | Path):
        path = Path(image)
        status = path.stat() if path.exists() else None
        return [str(path), status and [status.st_size, status.st_mtime_ns]]
    if isinstance(image, np.ndarray):
        return [list(image.shape), identity(image.tobytes())]
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=12).hexdigest()
    if isinstance(image, VideoFile):
        return [identity(image.path), image.start, image.end]
    if isinstance(image, VideoPixels):
        return identity(image.pixels)
    if isinstance(image, ShuffledVideo):
        return [identity(image.video), image.seed]
    return None


def digest_of(folder: str | Path) -> str:
    """SHA-256 of all files of a checkpoint folder. DataError if it is none."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder} is no checkpoint folder: config.json is missing. Parts of the kit come by: "
            "python -m vlm_jax.data.prepare kit"
        )
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def features_folder(key: str) -> Path:
    """Where the arrays of a fingerprint lie; `complete.json` is there once all of them are."""
    return cache_folder() / "features" / key
