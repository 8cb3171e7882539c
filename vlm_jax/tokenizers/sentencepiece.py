"""Files of the SentencePiece library (tokenizer.model, spiece.model), read without it.

Such a file is one protocol buffer message, `ModelProto` of sentencepiece_model.proto; the few
fields that decide about ids are read here, and a setting that the `tokenizers` library cannot do is
an error.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNIGRAM, BPE = 1, 2
CONTROL, USER_DEFINED = 3, 4
"""Types of pieces that are more than text: what no text becomes, and what is never split."""


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary.

    kind: UNIGRAM or BPE. pieces: (text, score, type) by id. unknown: id of what stands for unknown
    characters. charsmap: compiled rules by which characters are replaced, b"" for none.
    byte_fallback: whether unknown characters become bytes. merges_spaces: whether spaces at the
    ends are dropped and others are joined to one.
    """

    kind: int
    pieces: tuple[tuple[str, float, int], ...]
    unknown: int
    charsmap: bytes
    byte_fallback: bool
    merges_spaces: bool

    @property
    def ids(self) -> dict[str, int]:
        """Text to id."""
        return {text: index for index, (text, _, _) in enumerate(self.pieces)}

    def merges(self) -> list[tuple[str, str]]:
        """Pairs that become one piece, the first before all others: every way to cut a piece into
        two pieces, in the order of the pieces' ids.
        """
        ids = self.ids
        ranked = []
        for piece, index in ids.items():
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in ids and right in ids:
                    ranked.append((index, len(left), len(right), left, right))
        ranked.sort(key=lambda found: found[:3])
        return [(left, right) for *_, left, right in ranked]


def read_pieces(path: str | Path) -> Pieces:
    """The vocabulary of a file. ValueError for a file that is none, and for settings that are not
    supported; it names the file.
    """
    try:
        message = _grouped(Path(path).read_bytes())
        pieces = tuple(_piece(_grouped(given)) for given in message.get(1, ()))
        trainer, rules = (_grouped(b"".join(message.get(field, ()))) for field in (2, 3))
    except (ValueError, IndexError, struct.error, TypeError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from None
    if not pieces:
        raise ValueError(f"{path} is no SentencePiece model: it has no pieces")
    kind = _last(trainer, 3, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"{path}: model_type={kind} is not supported, only unigram and BPE are")
    if _last(trainer, 24, 0):
        raise ValueError(f"{path}: treat_whitespace_as_suffix is not supported")
    return Pieces(
        kind,
        pieces,
        unknown=_last(trainer, 40, 0),
        charsmap=_last(rules, 2, b""),
        byte_fallback=bool(_last(trainer, 35, 0)),
        merges_spaces=bool(_last(rules, 4, 1)),
    )


def _piece(fields: dict[int, list[Any]]) -> tuple[str, float, int]:
    """(text, score, type) of one piece."""
    score = struct.unpack("<f", _last(fields, 2, b"\0\0\0\0"))[0]
    return _last(fields, 1, b"").decode("utf-8"), score, _last(fields, 3, 1)


def _last(fields: dict[int, list[Any]], number: int, default: Any) -> Any:
    """The value of a field, of which the last one counts."""
    return fields[number][-1] if number in fields else default


def _grouped(data: bytes) -> dict[int, list[Any]]:
    """The values of a message by the numbers of their fields."""
    found: dict[int, list[Any]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int, or bytes. ValueError for what is no message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if at > len(data):
            raise ValueError(f"field {number} is cut off")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(an integer of seven bits a byte, the place after it)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
