"""Several short examples in one row of tokens, so that little of it is padding.

Rows are a function of the order of examples alone: they are filled first-fit, of a bounded number
of rows that are open at a time, and a state of a few numbers says where to go on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlm_jax.data.schema import DataError

Arrays = Mapping[str, Any]


class Packer:
    """An endless iterator of rows, each of whole examples as `data.pipeline.Loader` makes them.

    load: place in the stream to an example, {"image": ..., task: {"tokens", ...}}. task: whose
    tokens are packed. length: tokens of a row. images: most examples in a row. look_ahead: rows
    that are open at a time; with more, less is padding and examples stray farther from their place.
    """

    def __init__(
        self,
        load: Callable[[int], Arrays],
        task: str,
        *,
        length: int,
        images: int,
        look_ahead: int = 16,
    ):
        """ValueError for a size below 1."""
        for name, size in (("length", length), ("images", images), ("look_ahead", look_ahead)):
            if size < 1:
                raise ValueError(f"{name}={size}: it must be at least 1")
        self.load, self.task = load, task
        self.length, self.images, self.look_ahead = length, images, look_ahead
        self.set_state({"next": 0, "open": [], "rows": 0, "tokens": 0})

    def __iter__(self) -> "Packer":
        return self

    def __next__(self) -> dict[str, Any]:
        """The oldest open row, once there are more open rows than look_ahead or it is full.

        DataError for an example that is longer than a row.
        """
        while True:
            full = [row for row in self._open if not self._room(row)]
            if full or len(self._open) > self.look_ahead:
                return self._close(full[0] if full else self._open[0])
            self._place(self._next, self.load(self._next))
            self._next += 1

    def get_state(self) -> dict[str, Any]:
        """Small and of plain numbers: the next place in the stream, the places that open rows hold,
        and what `padding_share` needs.
        """
        places = [[place for place, _ in row] for row in self._open]
        return {"next": self._next, "open": places, "rows": self._rows, "tokens": self._tokens}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there, after loading again what was open."""
        self._next, self._rows, self._tokens = (state[key] for key in ("next", "rows", "tokens"))
        self._open = [[(place, self.load(place)) for place in row] for row in state["open"]]

    def padding_share(self) -> float:
        """Which share of the tokens of all rows so far is padding, in [0, 1]."""
        return 1.0 - self._tokens / max(self._rows * self.length, 1)

    def _size(self, example: Arrays) -> int:
        return int(np.sum(example[self.task]["tokens_mask"]))

    def _room(self, row: list[tuple[int, Arrays]]) -> int:
        """Tokens that still fit, 0 if no image does."""
        used = sum(self._size(example) for _, example in row)
        return 0 if len(row) == self.images else self.length - used

    def _place(self, place: int, example: Arrays) -> None:
        """Into the first open row with room for it, else into a new one."""
        size = self._size(example)
        if size > self.length:
            raise DataError(
                f"an example of {size} tokens does not fit a row of length={self.length}: raise "
                "it, or lower the task's length"
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
        return join([example for _, example in row], self.task, self.length, self.images)


def join(examples: list[Arrays], task: str, length: int, images: int) -> dict[str, Any]:
    """One row of examples: {"image": [images, ...], "index": i32[images], task: {...}}.

    Of the task, tokens, targets and their masks one example after the other, [length]; `segments`
    i32[length] counts them from 1, 0 is padding; `prefix` i32[length] is that of each token's own.
    Images beyond the last are zeros, their index -1.
    """
    lengths = [int(np.sum(example[task]["tokens_mask"])) for example in examples]
    fill = lambda parts: np.concatenate([*parts, np.zeros_like(parts[0], shape=length)])[:length]
    own = lambda key: [e[task][key][:size] for e, size in zip(examples, lengths, strict=True)]
    row = {key: fill(own(key)) for key in ("tokens", "tokens_mask", "targets", "targets_mask")}
    for name, values in {
        "segments": range(1, len(examples) + 1),
        "prefix": [example[task]["prefix"] for example in examples],
    }.items():
        row[name] = fill([np.repeat(np.asarray(values, np.int32), lengths)])
    missing = images - len(examples)
    shown = np.stack([example["image"] for example in examples])
    nothing = np.zeros((missing, *shown.shape[1:]), shown.dtype)
    index = [example["index"] for example in examples] + [-1] * missing
    image = np.concatenate([shown, nothing])
    return {"image": image, "index": np.asarray(index, np.int32), task: row}
