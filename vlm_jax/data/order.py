"""The order of training: which example of a source comes at which position of an endless stream.

A function of seed and position alone, so that a run may stop anywhere and go on with any number of
processes. A source that is quick to read in any order is shuffled as a whole. One that brings an
order of its own, by a method `order(seed)`, decides itself: `Mixture`, and `Parquet`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlm_jax.data.schema import Source

Order = Callable[[int], int]
"""Position in the stream, from 0 without end, to position in the source."""

ENDLESS = 2**62


def shuffled(source: Source, seed: int) -> Any:
    """The positions of a source's examples without end, as a grain.MapDataset, in an order that the
    seed chooses; every example comes once before any comes twice, except in a mixture.

    seed: in [0, 2**32).
    """
    import grain  # late: it imports jax, which reading a source does not need

    own = getattr(source, "order", None)
    if own is None:
        return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    return grain.MapDataset.range(ENDLESS).seed(seed).map(own(seed))


def order_of(source: Source, seed: int) -> Order:
    """The same as a function."""
    own = getattr(source, "order", None)
    stream: Any = shuffled(source, seed)
    return own(seed) if own is not None else lambda position: int(stream[position])


def derived_seed(seed: int, number: int) -> int:
    """A seed in [0, 2**32) for part `number` of something that has a seed."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def by_blocks(lengths: Sequence[int] | np.ndarray, window: int, seed: int) -> Order:
    """An order that shuffles blocks, then the examples of every `window` consecutive blocks, anew
    in every epoch.

    lengths: i64[N], the number of examples in each block; a block is what is quick to read together
    and slow to read in part. So at most 2 * window blocks are in use at a time.
    """
    lengths = np.asarray(lengths, np.int64)
    firsts, total = np.cumsum(lengths) - lengths, int(lengths.sum())

    @functools.lru_cache(maxsize=4)
    def epoch_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of an epoch, and where each ends in it."""
        blocks = np.random.default_rng((seed, epoch)).permutation(len(lengths))
        return blocks, np.cumsum(lengths[blocks])

    @functools.lru_cache(maxsize=64)
    def window_of(epoch: int, number: int, size: int) -> np.ndarray:
        """The order of the examples in a window."""
        return np.random.default_rng((seed, epoch, 1 + number)).permutation(size)

    def order(position: int) -> int:
        epoch, place = divmod(position, total)
        blocks, ends = epoch_of(epoch)
        number = int(np.searchsorted(ends, place, side="right")) // window
        first = int(ends[number * window - 1]) if number else 0
        last = int(ends[min((number + 1) * window, len(ends)) - 1])
        place = first + int(window_of(epoch, number, last - first)[place - first])
        at = int(np.searchsorted(ends, place, side="right"))
        block = blocks[at]
        return int(firsts[block] + place - (ends[at] - lengths[block]))

    return order
