r"""Conversations as the lines of a user's data.jsonl write them: what was said, in turn, and the
pictures that were shown.

Three ways of writing the same, of which a line has one:

    "questions": [{"question": "what is on <image>", "answers": ["a cat"]},
                  {"question": "and its colour", "answers": ["red"], "type": "follow_up"}]
    "messages": [{"role": "user", "content": "what is on <image>"},
                 {"role": "assistant", "content": "a cat"}, ...]
    "conversations": [{"from": "human", "value": "<image>\nwhat is it"},
                      {"from": "gpt", "value": "a cat"}, ...]

The second may have lists in place of texts, whose parts are {"type": "text", "text": ...} and
{"type": "image"}; the third is LLaVA's (arXiv:2304.08485). "<image>" stands for the next of the
line's pictures; without it the first turn shows them all.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vlm_jax.data.schema import DataError
from vlm_jax.data.turns import MARK

KEYS = ("questions", "messages", "conversations")

TURN = frozenset({"question", "answers", "type"})
"""Keys of a turn."""


def turns_of(
    record: Mapping[str, Any], where: str, misspelt: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    """The turns of a line: dicts with a question, perhaps answers, perhaps a type.

    misspelt: the key of a turn that another may be meant for. DataError, naming `where` and the
    key, if there are several of KEYS, none of their entries, or they do not take turns. What the
    texts are is not looked at.
    """
    given = [key for key in KEYS if key in record]
    if len(given) != 1:
        raise DataError(f"{where}: {' and '.join(given)}; keep one of them")
    (key,) = given
    entries = record[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{where}: {key} must be a list of objects, this is {entries!r:.40}")
    if not entries:
        raise DataError(f"{where}: {key} is empty; add a turn or remove the key")
    if key == "questions":
        return [_turn(entry, f"{where}: {key}[{i}]", misspelt) for i, entry in enumerate(entries)]
    names = ("role", "content") if key == "messages" else ("from", "value")
    return _taken(entries, f"{where}: {key}", *names)


def _turn(entry: dict, where: str, misspelt: Callable[[str], str | None]) -> dict[str, Any]:
    for key in sorted(entry.keys() - TURN):
        meant = misspelt(key)
        if meant and meant not in entry:
            raise DataError(f"{where} has an unknown key {key!r}; did you mean {meant!r}?")
    if "question" not in entry:
        raise DataError(f"{where} has no question; add what is said in this turn")
    return {key: entry[key] for key in entry if key in TURN}


SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def _taken(entries: list[dict], where: str, who: str, what: str) -> list[dict[str, Any]]:
    """Messages of a user and an assistant, in turn."""
    turns: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        here = f"{where}[{number}]"
        if who not in entry or what not in entry:
            raise DataError(f"{here} needs {who!r} and {what!r}, it has {', '.join(sorted(entry))}")
        speaker = SPEAKERS.get(entry[who]) if isinstance(entry[who], str) else None
        expected = "assistant" if number % 2 else "user"
        if speaker != expected:
            raise DataError(
                f"{here}.{who} is {entry[who]!r:.40}, but it is the {expected}'s turn: user and "
                "assistant speak alternately, and what stands before the first turn belongs into "
                "the chat task's format, as `begins`"
            )
        text = _text(entry[what], f"{here}.{what}", pictures=not number % 2)
        if number % 2:
            turns[-1]["answers"] = [text]
        else:
            turns.append({"question": text})
    return turns


def _text(content: Any, where: str, *, pictures: bool) -> Any:
    """What a message says, with MARK for its pictures; what is no list is left as it is."""
    if not isinstance(content, list):
        return content
    found = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            found.append(part["text"])
        elif kind == "image" and pictures:
            found.append(MARK)
        else:
            raise DataError(
                f"{where}[{number}] must be a text or, where the user speaks, an image, "
                f'{{"type": "text", "text": ...}} or {{"type": "image"}}, this is {part!r:.60}'
            )
    return " ".join(found)
