"""What the sources have in common whose examples are computed on demand: the ranges of their
fields, and that example i is a function of (seed, split, i) alone.
"""

from collections.abc import Collection, Mapping
from typing import Any

from vlm_jax.data.schema import inside


def check(source: Any, splits: Collection[str], own: Mapping[str, Any]) -> None:
    """ValueError, naming the class, for a split, length or seed of a source that cannot be.

    splits: all that there are. own: what else must hold, by what is said if it does not.
    """
    length = source.length
    checks = {
        f"split {source.split!r} must be one of {', '.join(splits)}": source.split in splits,
        f"length={length} must be at least 1": length is None or length > 0,
        f"seed={source.seed} must not be negative": source.seed >= 0,
    }
    for message, holds in {**checks, **own}.items():
        if not holds:
            raise ValueError(f"{type(source).__name__}: {message}")


def within(source: Any, **ranges: tuple[float, float]) -> dict[str, bool]:
    """For `check`: that fields of a source lie in [lowest, highest]."""
    return {
        f"{name}={getattr(source, name)} must be in [{low}, {high}]": (
            low <= getattr(source, name) <= high
        )
        for name, (low, high) in ranges.items()
    }


def key(source: Any, splits: Collection[str], index: int) -> tuple[int, int, int]:
    """What the seeds of all random streams of an example begin with: the source's seed, the number
    of its split, and the position. IndexError outside the source.
    """
    return source.seed, list(splits).index(source.split), int(inside(index, source))
