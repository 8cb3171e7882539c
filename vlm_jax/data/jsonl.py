"""A user's own data: a folder with images and one `data.jsonl` that says something about each.

One JSON object per line, in UTF-8:

    {"id": "7", "image": "7.jpg", "captions": ["a cat"], "question": "how many?", "answers": ["1"]}

`image` is relative to the folder; in its place there may be a `video`, whose middle frame is what
models of pictures see, and beside it or alone an `audio`, any file that has a sound. `question` and
`answers` may be left out, and so may the texts in `captions` where there is a question. An optional
`type` belongs to the question, an optional `label` to the image. Several questions about one image
are several lines with ids of their own. Other keys are ignored.
"""

import difflib
import functools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from vlm_jax.data.audio import AudioFile, no_picture
from vlm_jax.data.schema import DataError, Example, inside, validate
from vlm_jax.data.video_images import VideoFile

FILE = "data.jsonl"
"""The name of the file in the folder."""

_KEYS = {"id", "image", "video", "audio", "captions", "question", "answers", "type", "label"}
_LISTED = 10  # so many of the skipped lines are described; all are counted


class Jsonl:
    """The examples of the folder at `path`, in the order of its data.jsonl.

    All lines are checked at the start, images only for being there. In memory stay 8 bytes per
    line; texts are read again on access. on_error: "raise" stops at the first bad line, "skip"
    leaves bad lines out, logs a warning, counts them in `skipped_count` and describes the first 10
    in `skipped`. Raises DataError naming file and line, also if no line is usable.
    """

    def __init__(self, path: str, on_error: str = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is "raise" or "skip", not {on_error!r}')
        self._folder = Path(path).expanduser()
        self.name = f"jsonl/{self._folder.resolve().name}"
        self._file = self._folder / FILE
        if not self._file.is_file():
            raise DataError(f"{self._file} does not exist; a data folder holds its texts there")
        self.skipped: list[str] = []
        self.skipped_count = 0
        self._offsets = np.fromiter(self._usable(skip=on_error == "skip"), np.int64)
        if self.skipped:
            logging.getLogger(__name__).warning(
                "%s: skipped %d bad lines, kept %d; the first: %s",
                *(self._file, self.skipped_count, len(self), self.skipped[0]),
            )
        if not len(self):
            raise DataError(f"{self._file} holds no usable example; add one JSON object per line")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        with open(self._file, "rb") as file:
            file.seek(self._offsets[index])
            return _example(file.readline(), self._folder, f"{self._file}, example {index}")

    def _usable(self, skip: bool) -> Iterator[int]:
        """The byte offsets of the good lines."""
        first_line: dict[str, int] = {}
        for number, offset, line in _lines(self._file):
            where = f"{self._file}, line {number}"
            try:
                example = _example(line, self._folder, where)
                for kind, file in _files(example):
                    if not os.path.isfile(file):  # unlike Path's, never raises
                        raise DataError(f"{where}: there is no {kind} file {file}")
                earlier = first_line.setdefault(example["id"], number)
                if earlier != number:
                    raise DataError(
                        f"{where}: id {example['id']!r} is taken by line {earlier}; rename one "
                        "of them"
                    )
            except DataError as error:
                if not skip:
                    raise
                self.skipped_count += 1
                self.skipped += [str(error)] if self.skipped_count <= _LISTED else []
            else:
                yield offset


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1, byte offset and bytes of each line that is not blank; a byte order mark
    is no part of it.
    """
    with open(path, "rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            mark = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
            if line[mark:].strip():
                yield number, offset + mark, line[mark:]
            offset += len(line)


def _example(line: bytes, folder: Path, where: str) -> Example:
    """The example written in a line."""
    record = _record(line, where)
    question = {name: record[name] for name in ("question", "answers", "type") if name in record}
    if "question" not in record and question:
        raise DataError(f"{where}: {next(iter(question))} without a question; add the question")
    if "question" in record and "answers" not in record:
        raise DataError(f"{where}: a question without answers; add them or remove the question")
    example = {key: record[key] for key in ("id", "captions", "label") if key in record}
    example["questions"] = [question] if question else []
    if "image" in record and "video" in record:
        raise DataError(f"{where}: an image and a video; make two lines of them")
    if "image" in record:  # if there is neither, `validate` names it with what else is missing
        example["image"] = _path(record["image"], folder, where, "image")
    elif "video" in record:
        example["image"] = VideoFile(_path(record["video"], folder, where, "video"))
    elif "audio" in record:
        example["image"] = no_picture
    if "audio" in record:
        example["audio"] = AudioFile(_path(record["audio"], folder, where, "audio"))
    checked = validate(example, where)
    if not (checked["captions"] or question or "label" in checked):
        raise DataError(f"{where}: no caption, question or label; remove the line or add one")
    return checked


def _files(example: Example) -> Iterator[tuple[str, str]]:
    """What the files of an example are, and their paths."""
    image, audio = example["image"], example.get("audio")
    if image is not no_picture:
        yield "video" if isinstance(image, VideoFile) else "image", str(image)
    if audio is not None:
        yield "audio", str(audio)


def _record(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a line, once its text can be used and its keys are spelt right."""
    try:
        record = json.loads(line.decode("utf-8"))
        if b"\\ud" in line.lower():  # only escapes can spell half a character
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: half of a surrogate pair (\\ud...); write both or none"
        ) from None
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of 5,000 digits
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a line holds one JSON object, this is {record!r:.40}")
    for key in sorted(record.keys() - _KEYS):
        meant = _meant(key)
        if meant and meant not in record:
            raise DataError(f"{where}: unknown key {key!r}; did you mean {meant!r}?")
    return record


@functools.lru_cache(maxsize=256)  # the same few keys on every line
def _meant(key: str) -> str | None:
    """The known key that an unknown one may be a misspelling of."""
    return next(iter(difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)), None)


def _path(path: Any, folder: Path, where: str, key: str) -> str:
    """The path of a file that lies in the folder; links inside it may lead anywhere."""
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where}: {key} must be the path of a file, this is {path!r:.40}")
    if path.startswith(("/", "\\")) or PureWindowsPath(path).drive:
        raise DataError(f"{where}: {key} {path!r} is absolute; make it relative to {folder}")
    if ".." in PurePosixPath(path.replace("\\", "/")).parts:
        raise DataError(f"{where}: {key} {path!r} leaves the folder; move it into {folder}")
    return str(folder / path)
