"""Prediction and reference files: the formats of the COCO and VQA servers, and our own JSON lines.

Predictions, one of:

    [{"image_id": 42, "caption": "a dog"}, ...]                COCO caption results
    [{"question_id": 42, "answer": "yes"}, ...]                VQA submission
    {"id": "42", "caption" | "answer" | "label": "a dog"}      one JSON object per line

References, one of:

    {"annotations": [{"image_id": 42, "caption": "a dog"}]}    COCO annotations
    {"annotations": [{"question_id": 42, "answer_type": "other", "answers": [{"answer": "yes"}]}]}
    {"id": "42", "captions" | "answers": ["a dog"], "label": "dog"}     one JSON object per line

Other keys are ignored. An id is a whole number or a text; "42" and 42 are the same. Whatever is
wrong is a ValueError that names the file, and the line, the entry or the ids.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlm_jax.metrics.identity import in_id_order, name_ids

KINDS = ("caption", "answer", "label")
_ID = {"caption": "image_id", "answer": "question_id", "label": "id"}
_REFERENCE = {"caption": "captions", "answer": "answers", "label": "label"}


class PredictionFile(NamedTuple):
    """kind: one of `KINDS`. texts: id -> what was predicted."""

    kind: str
    texts: dict[Any, str]


class ReferenceFile(NamedTuple):
    """texts: id -> true texts, at least one. types: id -> type of the question, where known."""

    texts: dict[Any, list[str]]
    types: dict[Any, str]


def read_predictions(path: str | Path, allow_empty: bool = False) -> PredictionFile:
    """The predictions of a file, of one kind, each id once.

    Raises ValueError for anything else, and for empty texts unless allow_empty.
    """
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path} holds no predictions")
    where, first = rows[0]
    kind = next((kind for kind in KINDS if kind in first), None)
    if kind is None:
        raise ValueError(f"{path}, {where}: no caption, answer or label among {sorted(first)}")
    texts: dict[Any, str] = {}
    for where, row in rows:
        key = _id_of(row, (_ID[kind], "id"), f"{path}, {where}")
        if kind not in row:
            raise ValueError(f"{path}, {where}: id {key!r} has no {kind}")
        if not isinstance(row[kind], str):
            raise ValueError(
                f"{path}, {where}: the {kind} of id {key!r} must be a string, it is {row[kind]!r}"
            )
        if key in texts:
            raise ValueError(f"{path}, {where}: id {key!r} is predicted a second time")
        texts[key] = row[kind]
    if (empty := [key for key, text in texts.items() if not text.strip()]) and not allow_empty:
        raise ValueError(
            f"{path}: {len(empty)} ids with an empty {kind}: {name_ids(empty)}; predict something, "
            "or allow empty predictions to score them as wrong"
        )
    return PredictionFile(kind, texts)


def read_references(path: str | Path, kind: str) -> ReferenceFile:
    """The references of a file for predictions of a kind. Raises ValueError as the module says."""
    texts: dict[Any, list[str]] = {}
    types: dict[Any, str] = {}
    for where, row in _rows(path):
        found = _true_texts(row, kind, f"{path}, {where}")
        if not found:
            continue
        key = _id_of(row, (_ID[kind], "id"), f"{path}, {where}")
        if key in texts and not (kind == "caption" and "caption" in row):
            raise ValueError(f"{path}, {where}: id {key!r} is there a second time")
        texts.setdefault(key, []).extend(found)
        type_of = row.get("answer_type", row.get("type"))
        if isinstance(type_of, str):
            types[key] = type_of
    if not texts:
        raise ValueError(f"{path} holds no {_REFERENCE[kind]} to compare the {kind} with")
    return ReferenceFile(texts, types)


def write_predictions(path: str | Path, kind: str, texts: Mapping[Any, str]) -> None:
    """Write captions or answers as the COCO or VQA server takes them, in the order of ids.

    Ids that are whole numbers in quotes become numbers. Raises ValueError for labels.
    """
    if kind not in ("caption", "answer"):
        raise ValueError(f"servers take captions and answers, not the kind {kind!r}")
    known = {_same_id(key, str(path)): text for key, text in texts.items()}
    rows = [{_ID[kind]: key, kind: known[key]} for key in in_id_order(known)]
    Path(path).write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


def _true_texts(row: Mapping[str, Any], kind: str, where: str) -> list[str]:
    """The references in a row; none if it has nothing of this kind."""
    values = row.get(_REFERENCE[kind], row.get(kind))
    if values is None:
        return []
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list):
        raise ValueError(f"{where}: {_REFERENCE[kind]} must be a list, it is {values!r:.60}")
    texts: list[Any] = [v.get("answer") if isinstance(v, dict) else v for v in values]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{where}: {_REFERENCE[kind]} must be strings, one is {wrong[0]!r:.60}")
    return texts


def _id_of(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int | str:
    for key in keys:
        if key in row:
            return _same_id(row[key], where)
    raise ValueError(f"{where}: no {' or '.join(dict.fromkeys(keys))} among {sorted(row)}")


def _same_id(value: Any, where: str) -> int | str:
    """The id, as a number if it is one in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where}: an id is a whole number or a text, this is {value!r:.60}")
    if isinstance(value, str) and value.isascii() and value.isdigit() and str(int(value)) == value:
        return int(value)
    return value


def _rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for each object that a file holds as a list, as annotations or as lines."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, at byte {error.start}") from None
    for where, row in _lines(path, text) if _is_lines(text) else _entries(path, text):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, {where}: a JSON object belongs here, this is {row!r:.60}")
        yield where, row


def _is_lines(text: str) -> bool:
    """Whether a file has one object per line: its first line is one, and not the whole set."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and "annotations" not in first


def _lines(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from None


def _entries(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    if not text.strip():
        return
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    rows = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise ValueError(f'{path}: a list, {{"annotations": [...]}} or JSON lines belong here')
    yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))
