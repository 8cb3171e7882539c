"""A user's own data: a folder with images and one `data.jsonl` that says something about each.

One JSON object per line, in UTF-8:

    {"id": "7", "image": "7.jpg", "captions": ["a cat"], "question": "how many?", "answers": ["1"]}

`image` is relative to the folder; in its place there may be a `video`, whose middle frame is what
models of pictures see, and beside it or alone an `audio`, any file that has a sound. `question` and
`answers` may be left out, and so may the texts in `captions` where there is a question. An optional
`type` belongs to the question, an optional `label` to the image. Several questions about one image
are several lines with ids of their own. Other keys are ignored.

A conversation is one line, see `data.conversations`; in place of an image it may have several
`pictures`, or none:

    {"id": "8", "pictures": ["8a.jpg", "8b.jpg"], "questions": [
        {"question": "what is on <image>", "answers": ["a cat"]},
        {"question": "is it on <image> too", "answers": ["no"]}]}
"""

import difflib
import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from vlm_jax.data import conversations
from vlm_jax.data.audio import AudioFile, no_picture
from vlm_jax.data.schema import DataError, Example, inside, validate
from vlm_jax.data.turns import marks, pictures_of
from vlm_jax.data.video_images import VideoFile

FILE = "data.jsonl"
"""The name of the file in the folder."""

_SINGLE = ("question", "answers", "type")
_SEEN = ("image", "video", "pictures")
_KEYS = frozenset({"id", "audio", "captions", "label", *_SINGLE, *_SEEN, *conversations.KEYS})
_LISTED = 10  # so many of the skipped lines are described; all are counted


class Jsonl:
    """The examples of the folder at `path`, in the order of its data.jsonl; or of a file with
    another name, if `path` is one.

    All lines are checked at the start, images only for being there. In memory stay 8 bytes per
    line; texts are read again on access. on_error: "raise" stops at the first bad line, "skip"
    leaves bad lines out, logs a warning, counts them in `skipped_count` and describes the first 10
    in `skipped`. answered: whether every question needs answers; without them it has none, which
    only makes sense where it is to be answered. Raises DataError naming file and line, also if no
    line is usable.
    """

    def __init__(self, path: str, on_error: str = "raise", answered: bool = True) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is "raise" or "skip", not {on_error!r}')
        self._folder, self._answered = Path(path).expanduser(), answered
        self.name = f"jsonl/{self._folder.resolve().name}"
        self._file = self._folder / FILE
        if self._folder.is_file():
            self._folder, self._file = self._folder.parent, self._folder
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
            return self._example(file.readline(), f"{self._file}, example {index}")

    def _example(self, line: bytes, where: str) -> Example:
        """The example written in a line."""
        record = _record(line, where)
        questions = _questions(record, where, self._answered)
        talk = any(key in record for key in conversations.KEYS)
        example = {key: record[key] for key in ("id", "captions", "label") if key in record}
        bare = "captions" not in record and (talk or not self._answered)
        example |= {"captions": []} if bare else {}
        example |= {"questions": questions, **_seen(record, self._folder, where, talk)}
        if "audio" in record:
            example["audio"] = AudioFile(_path(record["audio"], self._folder, where, "audio"))
        checked = validate(example, where, answered=self._answered)
        if not (checked["captions"] or questions or "label" in checked):
            raise DataError(f"{where}: no caption, question or label; remove the line or add one")
        if talk:
            try:
                marks(checked)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        return checked

    def _usable(self, skip: bool) -> Iterator[int]:
        """The byte offsets of the good lines."""
        first_line: dict[str, int] = {}
        for number, offset, line in _lines(self._file):
            where = f"{self._file}, line {number}"
            try:
                example = self._example(line, where)
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


def _questions(record: Mapping[str, Any], where: str, answered: bool) -> list[dict[str, Any]]:
    """What is asked in a line, in turn. answered: whether a single question needs answers."""
    if any(key in record for key in conversations.KEYS):
        both = [name for name in _SINGLE if name in record]
        if both:
            raise DataError(
                f"{where}: {both[0]} beside a conversation; put it into one of its turns"
            )
        return conversations.turns_of(record, where, lambda key: _meant(key, conversations.TURN))
    question = {name: record[name] for name in _SINGLE if name in record}
    if question and "question" not in record:
        raise DataError(f"{where}: {next(iter(question))} without a question; add the question")
    if question and "answers" not in record and answered:
        raise DataError(f"{where}: a question without answers; add them or remove the question")
    return [question] if question else []


def _seen(record: Mapping[str, Any], folder: Path, where: str, talk: bool) -> dict[str, Any]:
    """The image of a line, and `pictures` if it has a list of them. talk: whether it is a
    conversation, which may be without.
    """
    given = [key for key in _SEEN if key in record]
    if len(given) > 1 and "pictures" in given:
        raise DataError(f"{where}: {given[0]} beside pictures; put it into their list")
    if len(given) > 1:
        raise DataError(f"{where}: an {given[0]} and a {given[1]}; make two lines of them")
    if "pictures" in record:
        listed = record["pictures"]
        if not talk or not isinstance(listed, list) or not listed:
            raise DataError(
                f"{where}: pictures must be a list of paths, of a line with "
                f"{' or '.join(conversations.KEYS)}, this is {listed!r:.40}"
            )
        keys = [f"pictures[{i}]" for i in range(len(listed))]
        paths = [_path(path, folder, where, key) for path, key in zip(listed, keys, strict=True)]
        return {"image": paths[0], "pictures": paths}
    if "image" in record:
        return {"image": _path(record["image"], folder, where, "image")}
    if "video" in record:
        return {"image": VideoFile(_path(record["video"], folder, where, "video"))}
    # With neither, `validate` names it with what else is missing.
    return {"image": no_picture} if talk or "audio" in record else {}


def _files(example: Example) -> Iterator[tuple[str, str]]:
    """What the files of an example are, and their paths."""
    for image in pictures_of(example):
        yield "video" if isinstance(image, VideoFile) else "image", str(image)
    if example.get("audio") is not None:
        yield "audio", str(example.get("audio"))


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
        meant = _meant(key, _KEYS)
        if meant and meant not in record:
            raise DataError(f"{where}: unknown key {key!r}; did you mean {meant!r}?")
    return record


@functools.lru_cache(maxsize=256)  # the same few keys on every line
def _meant(key: str, known: frozenset[str]) -> str | None:
    """The known key that an unknown one may be a misspelling of."""
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)), None)


def _path(path: Any, folder: Path, where: str, key: str) -> str:
    """The path of a file that lies in the folder; links inside it may lead anywhere."""
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where}: {key} must be the path of a file, this is {path!r:.40}")
    if path.startswith(("/", "\\")) or PureWindowsPath(path).drive:
        raise DataError(f"{where}: {key} {path!r} is absolute; make it relative to {folder}")
    if ".." in PurePosixPath(path.replace("\\", "/")).parts:
        raise DataError(f"{where}: {key} {path!r} leaves the folder; move it into {folder}")
    return str(folder / path)
