"""Which example is which: checks that predictions and references belong together, one order of ids,
and the union of what several processes computed.

Every corpus score is computed in the order of ids, so that it has the same last digit in whatever
order, in whatever batches and by however many processes the examples were predicted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAMED = 5
"""So many ids are named in an error; all are counted."""


def name_ids(ids: Sequence[Any]) -> str:
    """The first few ids, for an error message."""
    return ", ".join(map(repr, ids[:NAMED])) + ", ..." * (len(ids) > NAMED)


def in_id_order(ids: Iterable[Any]) -> list[Any]:
    """Ids sorted: numbers first, then strings, then whatever else by its text."""

    def key(one: Any) -> tuple[int, Any]:
        rank = 0 if isinstance(one, int | float) else 1 if isinstance(one, str) else 2
        return rank, one if rank < 2 else repr(one)

    return sorted(ids, key=key)


def check_ids(predictions: Mapping[Any, object], references: Mapping[Any, Sequence[Any]]) -> None:
    """Raises ValueError, naming up to five ids, if predictions and references do not belong
    together.

    That is: no predictions at all, ids on one side only, an id whose list of references is empty or
    one string, or a prediction that should be text and is not.
    """
    if not predictions:
        raise ValueError("there are no predictions to score")
    faults = {
        "without a prediction": [key for key in references if key not in predictions],
        "predicted but without references": [key for key in predictions if not references.get(key)],
        "with one string where a list of references belongs": [
            key for key, group in references.items() if isinstance(group, str)
        ],
        "whose prediction is not a string": [
            key for key, text in predictions.items() if not isinstance(text, str)
        ],
    }
    for fault, ids in faults.items():
        if ids:
            raise ValueError(f"{len(ids)} ids {fault}: {name_ids(ids)}")


def merge(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """The union of what several processes found, {id: anything each}, in the order of ids.

    Any metric of the union is that of one process to the last digit. Raises ValueError, naming ids
    that more than one part holds.
    """
    found: dict[Any, Any] = {}
    for part in parts:
        if twice := [key for key in part if key in found]:
            raise ValueError(f"{len(twice)} ids in more than one part: {name_ids(twice)}")
        found.update(part)
    return {key: found[key] for key in in_id_order(found)}
