"""Several short examples in one row of tokens, so that little of it is padding.

Rows are a function of the order of examples alone: they are filled first-fit, of a bounded number
of rows that are open at a time, and a state of a few numbers says where to go on. Every row of a
batch is filled from a share of the stream that is its own, whichever process reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from vlm_jax.data.schema import DataError

Arrays = Mapping[str, Any]

OF_TEXT = ("tokens", "tokens_mask", "targets", "targets_mask")
"""What a task makes of an example, beside `prefix`, that can lie in a row with others."""


@dataclass(frozen=True)
class Packing:
    """What a row holds, by config.data.packing.

    task: whose tokens are packed. length: tokens of a row, in which those of pictures count where
    they stand in the text. images: most examples in a row; each takes the memory of one, shown or
    not. look_ahead: rows that are open at a time; with more, less is padding and examples stray
    farther from their place.
    """

    task: str
    length: int
    images: int = 4
    look_ahead: int = 4

    def __post_init__(self):
        """ValueError for a size below 1."""
        for name in ("length", "images", "look_ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 1")


START: Mapping[str, Any] = {"next": 0, "open": [], "rows": 0, "tokens": 0}


class Packer:
    """An endless iterator of rows, each of whole examples as `data.pipeline.Loader` makes them.

    load: place in the stream to an example, {"image": ..., task: {"tokens", ...}}.
    """

    def __init__(self, load: Callable[[int], Arrays], packing: Packing):
        self.load, self.packing = load, packing
        self.set_state(START)

    def __iter__(self) -> "Packer":
        return self

    def __next__(self) -> dict[str, Any]:
        """The oldest open row, once there are more open rows than look_ahead or it is full.

        DataError for an example that is longer than a row.
        """
        while True:
            full = [row for row in self._open if not self._room(row)]
            if full or len(self._open) > self.packing.look_ahead:
                return self._close(full[0] if full else self._open[0])
            self._place(self._next, self.load(self._next))
            self._next += 1

    def get_state(self) -> dict[str, Any]:
        """Small and of plain numbers: the next place in the stream, the places that open rows hold,
        and how many rows and tokens were filled.
        """
        places = [[place for place, _ in row] for row in self._open]
        return {"next": self._next, "open": places, "rows": self._rows, "tokens": self._tokens}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there, after loading again what was open."""
        self._next, self._rows, self._tokens = (state[key] for key in ("next", "rows", "tokens"))
        self._open = [[(place, self.load(place)) for place in row] for row in state["open"]]

    def _size(self, example: Arrays) -> int:
        return int(np.sum(example[self.packing.task]["tokens_mask"]))

    def _room(self, row: list[tuple[int, Arrays]]) -> int:
        """Tokens that still fit, 0 if no image does."""
        used = sum(self._size(example) for _, example in row)
        return 0 if len(row) == self.packing.images else self.packing.length - used

    def _place(self, place: int, example: Arrays) -> None:
        """Into the first open row with room for it, else into a new one."""
        size = self._size(example)
        if size > self.packing.length:
            raise DataError(
                f"an example of {size} tokens does not fit a row of "
                f"length={self.packing.length}: raise config.data.packing.length, or lower the "
                "task's length"
            )
        for row in self._open:
            if size <= self._room(row):
                row.append((place, example))
                return
        self._open.append([(place, example)])

    def _close(self, row: list[tuple[int, Arrays]]) -> dict[str, Any]:
        self._open = [other for other in self._open if other is not row]
        self._rows += 1
        self._tokens += sum(self._size(example) for _, example in row)
        return join([example for _, example in row], self.packing)


def join(examples: Sequence[Arrays], packing: Packing) -> dict[str, Any]:
    """One row of examples: {"image": [images, ...], "index": i32[images], task: {...}}.

    Of the task, tokens, targets and their masks one example after the other, [length]; `segments`
    i32[length] counts them from 1, 0 is padding; `prefix` i32[length] is that of each token's own.
    Images beyond the last are zeros, their index -1. DataError for a task that makes anything else
    of an example, or nothing to write.
    """
    texts = [example[packing.task] for example in examples]
    if {*texts[0]} != {*OF_TEXT, "prefix"}:
        raise DataError(
            f"examples of task {packing.task} have {', '.join(texts[0])}: packed are those that "
            f"have {', '.join(OF_TEXT)} and prefix and no more. Leave config.data.packing out"
        )
    length, lengths = packing.length, [int(np.sum(text["tokens_mask"])) for text in texts]
    fill = lambda parts: np.concatenate([*parts, np.zeros_like(parts[0], shape=length)])[:length]
    own = lambda key: [text[key][:size] for text, size in zip(texts, lengths, strict=True)]
    row = {key: fill(own(key)) for key in OF_TEXT}
    for name, values in {
        "segments": range(1, len(examples) + 1),
        "prefix": [text["prefix"] for text in texts],
    }.items():
        row[name] = fill([np.repeat(np.asarray(values, np.int32), lengths)])
    missing = packing.images - len(examples)
    shown = np.stack([example["image"] for example in examples])
    nothing = np.zeros((missing, *shown.shape[1:]), shown.dtype)
    index = [example["index"] for example in examples] + [-1] * missing
    image = np.concatenate([shown, nothing])
    return {"image": image, "index": np.asarray(index, np.int32), packing.task: row}


class PackedBatches(grain.IterDataset):
    """An endless stream of batches of packed rows.

    rows: those of every batch that are made here. load: (row, place) to the example at a place in
    that row's share of the stream. batch: of rows. threads: that read side by side.
    """

    def __init__(
        self,
        packing: Packing,
        rows: Sequence[int],
        load: Callable[[int, int], Arrays],
        batch: Callable[[list[dict[str, Any]]], dict[str, Any]],
        threads: int,
    ):
        super().__init__()
        self.rows, self.stacked, self.threads = rows, batch, max(threads, 1)
        self.packer = lambda row: Packer(lambda place: load(row, place), packing)

    def __iter__(self) -> "PackedIterator":
        """From the first example on."""
        return PackedIterator(self)


class PackedIterator(grain.DatasetIterator):
    """Its state is {"lanes": {row: the state of its packer}}, of the rows that are made here."""

    def __init__(self, stream: PackedBatches):
        super().__init__()
        self.stream = stream
        self.packers = [stream.packer(row) for row in stream.rows]
        self.pool = ThreadPoolExecutor(stream.threads, "packing")

    def __next__(self) -> dict[str, Any]:
        """The next row of each packer, stacked."""
        return self.stream.stacked(list(self.pool.map(next, self.packers)))

    def get_state(self) -> dict[str, Any]:
        """What JSON can hold; see `together`."""
        states = [packer.get_state() for packer in self.packers]
        return {"lanes": dict(zip(map(str, self.stream.rows), states, strict=True))}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there; a state of more rows than those made here serves as well."""
        lanes = [state["lanes"][str(row)] for row in self.stream.rows]
        list(self.pool.map(Packer.set_state, self.packers, lanes))


def together(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of all rows, from the states of the iterators of several processes, which each of
    them, or of any other number, can go on from.
    """
    return {"lanes": {row: lane for state in states for row, lane in state["lanes"].items()}}


def padding_share(state: Mapping[str, Any], length: int) -> float:
    """Which share of the tokens of all rows so far is padding, in [0, 1]. length: of a row."""
    lanes = state["lanes"].values()
    held = sum(lane["rows"] for lane in lanes) * length
    return 1.0 - sum(lane["tokens"] for lane in lanes) / max(held, 1)
