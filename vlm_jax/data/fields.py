"""Which column or file of a record fills which part of an example, for every kind of shard.

A config says it by a mapping from parts to places:

    {"image": "jpg;png;webp", "captions": "txt"}          members of a tar, the first that is there
    {"image": "image", "captions": "sentences:raw"}       columns; `raw` of each item of a list
    {"image": "jpg", "captions": "json:captions.0.text"}  inside the JSON text of a member

What follows the colon leads into structs, lists and JSON; a number chooses from a list, a name goes
through all of it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_jax.data.schema import DataError, Example, Question, validate
from vlm_jax.kwargs import check_keys, suggestion

PARTS = ("image", "id", "captions", "label", "questions", "answers", "types")
"""What places may be given for. answers: of one question, or a list with those of each question."""


@dataclass(frozen=True)
class Place:
    """Where a part may lie: a column, and the way on inside it."""

    column: str
    way: tuple[str, ...] = ()


Fields = Mapping[str, tuple[Place, ...]]


def parse(fields: Mapping[str, str]) -> Fields:
    """The places of each part, in order of preference. TypeError for unknown parts or no image."""
    check_keys(fields, PARTS, "fields")
    if not fields.get("image"):
        raise TypeError("fields lacks the required key 'image'")
    return {part: _places(part, text) for part, text in dict(fields).items() if text}


def columns(fields: Fields) -> list[str]:
    """Every column that some part may lie in, without repeats."""
    return list(dict.fromkeys(place.column for places in fields.values() for place in places))


def check(fields: Fields, present: Iterable[str], where: str) -> None:
    """DataError unless each part has one of its columns among those present."""
    present = list(present)
    for part, places in fields.items():
        if not any(place.column in present for place in places):
            raise DataError(f"{where}: {_missing(part, places, present)}")


def example(
    fields: Fields,
    get: Callable[[str], Any],
    present: Iterable[str],
    where: str,
    identifier: str,
    folder: str = "",
) -> Example:
    """The example of a record.

    get: the value of a column, or KeyError. present: the columns that the record has, for errors.
    identifier: the id where fields has none. folder: what relative paths of images start from.
    Raises DataError starting with `where`.
    """
    parts = {name: _part(name, places, get, present, where) for name, places in fields.items()}
    found: dict[str, Any] = {
        "id": _one(parts["id"], f"{where}: id") if "id" in parts else identifier,
        "image": _image(parts["image"], where, folder),
        "captions": _texts(parts.get("captions"), f"{where}: captions"),
        "questions": _questions(parts, where),
    }
    if parts.get("label") is not None:
        found["label"] = _one(parts["label"], f"{where}: label")
    if not (found["captions"] or found["questions"] or "label" in found):
        raise DataError(f"{where}: no caption, question or label")
    return validate(found, where)


def follow(value: Any, way: tuple[str, ...], where: str) -> Any:
    """What lies at the end of a way into nested dicts, lists and JSON text. DataError for a wrong
    turn.
    """
    if way and isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from None
    for position, key in enumerate(way):
        if isinstance(value, list):
            if not key.isdigit():
                return [follow(item, way[position:], where) for item in value]
            if int(key) >= len(value):
                raise DataError(f"{where}: a list of {len(value)} has no item {key}")
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            keys = list(value) if isinstance(value, Mapping) else []
            listing = f"it has {', '.join(map(str, keys[:20]))}" if keys else f"it is {value!r:.40}"
            raise DataError(f"{where}: no {key!r} there; {suggestion(key, keys)}{listing}")
    return value


def _places(part: str, text: str) -> tuple[Place, ...]:
    """The alternatives in a text such as "txt;json:caption"."""
    places = []
    for word in text.split(";"):
        column, _, way = word.strip().partition(":")
        if not column:
            raise DataError(f"fields.{part}={text!r} has an empty alternative; remove a ';'")
        places.append(Place(column, tuple(way.split(".")) if way else ()))
    return tuple(places)


def _missing(part: str, places: tuple[Place, ...], present: Iterable[str]) -> str:
    """What an error says about a part that lies in none of its places."""
    present, wanted = sorted(present), [place.column for place in places]
    near = next(filter(None, (suggestion(name, present) for name in wanted)), "")
    have = ", ".join(present[:20]) or "nothing"
    return f"no {' or '.join(wanted)} for {part!r}; {near}there is {have}: change fields.{part}"


def _part(
    name: str,
    places: tuple[Place, ...],
    get: Callable[[str], Any],
    present: Iterable[str],
    where: str,
) -> Any:
    """The value of a part, from the first of its places that the record has."""
    for place in places:
        try:
            value = get(place.column)
        except KeyError:
            continue
        return follow(value, place.way, f"{where}, {place.column}") if place.way else value
    raise DataError(f"{where}: {_missing(name, places, present)}")


def _image(value: Any, where: str, folder: str) -> Any:
    """Encoded bytes or a path, also out of {"bytes": ..., "path": ...}."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise DataError(
            f"{where}: the image is only an address, {value[:60]}; download the pictures first, "
            "for example with img2dataset, which writes tar shards"
        )
    if isinstance(value, str) and folder and not Path(value).is_absolute():
        return f"{folder}/{value}"
    if not value:
        raise DataError(f"{where}: the image is empty")
    return value


def _text(value: Any, where: str) -> str:
    """A text without the white space around it, a number as text."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8 (byte {error.start + 1})") from None
    if isinstance(value, Mapping):
        keys = [str(key) for key in value] or ["nothing"]
        choice = f"choose one, as in 'column:{keys[0]}'"
        raise DataError(f"{where} is a struct of {', '.join(keys)}: {choice}")
    return str(value).strip()


def _one(value: Any, where: str) -> str:
    """A single text, also as the only item of a list."""
    texts = _texts(value, where)
    if len(texts) != 1:
        raise DataError(f"{where} must be one text, there are {len(texts)}")
    return texts[0]


def _texts(value: Any, where: str) -> list[str]:
    """All texts in a value, however deep its lists are; empty ones and nulls are left out."""
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item, where)]
    text = "" if value is None else _text(value, where)
    return [text] if text else []


def _questions(parts: Mapping[str, Any], where: str) -> list[Question]:
    """One question with all answers, or a list of questions with the answers of each."""
    asked = parts.get("questions")
    if asked is None:
        return []
    alone = not isinstance(asked, list | tuple)
    each = lambda name: [parts[name]] if alone and name in parts else parts.get(name) or []
    questions, answers, types = [asked] if alone else asked, each("answers"), each("types")
    if len(answers) != len(questions) or len(types) not in (0, len(questions)):
        raise DataError(
            f"{where}: {len(questions)} questions, {len(answers)} answers, {len(types)} types: as "
            "many as there are questions are needed"
        )
    made = []
    for position, question in enumerate(questions):
        entry: Any = {"question": _one(question, f"{where}: questions")}
        entry["answers"] = _texts(answers[position], f"{where}: answers")
        if types:
            entry["type"] = _one(types[position], f"{where}: types")
        made.append(entry)
    return made
