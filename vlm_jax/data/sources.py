"""Data sets by name, and the wrappers that make one source out of others.

`make_source({"name": "scenes", "split": "train"})` is how a config asks for data. A new data set
costs one class with `name`, `__len__` and `__getitem__` (see `vlm_jax.data.schema`) and one line in
SOURCES.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax import kwargs
from vlm_jax.data.easy_vqa import EasyVQA
from vlm_jax.data.emoji import Emoji
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.scenes import Scenes
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.tfds_source import Tfds


class Subset:
    """Chosen positions of a source, in the order given, repeats allowed.

    indices: i64[N], each in [0, len(source)); IndexError otherwise.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.name = source.name
        self._source = source
        self._indices = np.asarray(indices, np.int64).reshape(-1)
        outside = (self._indices < 0) | (self._indices >= len(source))
        if outside.any():
            raise IndexError(
                f"position {self._indices[outside][0]} is outside {source.name}, "
                f"which has {len(source)} examples"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(self._indices[_inside(index, len(self))])]


class Questions:
    """One example per question: the image and captions of its example, and that question alone.

    The id is the example's with the position of the question: "7/0". Made by `flatten_questions`.
    counts: i64[len(source)], the number of questions of every example.
    """

    def __init__(self, source: Source, counts: np.ndarray) -> None:
        self.name = source.name
        self._source = source
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Example:
        index = _inside(index, len(self))
        position = int(np.searchsorted(self._ends, index, side="right"))
        example = self._source[position]
        which = index - int(self._ends[position]) + len(example["questions"])
        question = example["questions"][which]
        return {**example, "id": f"{example['id']}/{which}", "questions": [question]}


class Mixture:
    """Several sources as one, evenly interleaved in the proportion of their weights.

    weights: positive, one per source; by default the lengths, so that every example comes once. The
    mixture is as long as it takes to show every example of every source at least once at these
    weights: the other sources start over meanwhile, and their examples then keep their id. Ids are
    prefixed by the source's position: "1/cat". Raises ValueError for weights that do not fit.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        lengths = np.array([len(source) for source in sources], np.float64)
        share = lengths if weights is None else np.asarray(weights, np.float64)
        if not len(lengths) or not lengths.all():
            raise DataError("a mixture needs at least one source, and none that is empty")
        if share.shape != lengths.shape or not (share > 0).all():
            raise ValueError(f"{len(lengths)} sources need as many positive weights, not {weights}")
        self.name = "+".join(source.name for source in sources)
        self._sources = tuple(sources)
        uses = np.ceil(share * (lengths / share).max() - 1e-6).astype(np.int64)
        which = np.repeat(np.arange(len(uses), dtype=np.int32), uses)
        turn = np.concatenate([np.arange(count) for count in uses])
        order = np.lexsort(
            (which, (turn + 0.5) / uses[which])
        )  # the j-th of n uses is due at (j + 1/2) / n
        self._which, self._position = which[order], (turn % lengths[which].astype(np.int64))[order]

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Example:
        which = int(self._which[_inside(index, len(self))])
        example = self._sources[which][int(self._position[index])]
        return {**example, "id": f"{which}/{example['id']}"}


def flatten_questions(source: Source) -> Questions:
    """The source with one example per question; examples without a question are left out.

    Goes through all examples once to count, without decoding images. A tfds data set is read from
    end to end by this. Raises DataError if there is no question at all.
    """
    counts = np.fromiter((len(source[i]["questions"]) for i in range(len(source))), np.int64)
    if not counts.sum():
        raise DataError(f"{source.name} holds no questions; use another data set or task")
    return Questions(source, counts)


def subset(
    source: Mapping[str, Any], start: int = 0, stop: int | None = None, step: int = 1
) -> Subset:
    """The examples start:stop:step of another source's config; negative positions count from the
    end.
    """
    whole = make_source(source)
    return Subset(whole, range(len(whole))[start:stop:step])


def mixture(
    sources: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None
) -> Mixture:
    """A `Mixture` of other sources' configs."""
    return Mixture([make_source(source) for source in sources], weights)


def questions(source: Mapping[str, Any]) -> Questions:
    """`flatten_questions` of another source's config."""
    return flatten_questions(make_source(source))


SOURCES: dict[str, Callable[..., Any]] = {
    "scenes": Scenes,
    "jsonl": Jsonl,
    "easy_vqa": EasyVQA,
    "emoji": Emoji,
    "tfds": Tfds,
    "subset": subset,
    "mixture": mixture,
    "questions": questions,
}
"""What a config's source names mean; the other keys of the config are the keyword arguments."""


def make_source(config: Mapping[str, Any]) -> Source:
    """The source of a config {"name": one of SOURCES, **its keyword arguments}.

    Raises ValueError for an unknown name and TypeError for an unknown or missing key, with a
    suggestion; DataError from the source itself.
    """
    return kwargs.build(SOURCES, config, "source")


def _inside(index: int, length: int) -> int:
    """The index, if it is in [0, length); IndexError otherwise, which also ends a `for` over a
    source.
    """
    if not 0 <= index < length:
        raise IndexError(f"position {index} is outside [0, {length})")
    return index
