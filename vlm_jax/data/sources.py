"""Data sets by name, and the wrappers that make one source out of others.

`make_source({"name": "scenes", "split": "train"})` is how a config asks for data. A new data set
costs one class with `name`, `__len__` and `__getitem__` (see `vlm_jax.data.schema`) and one line in
SOURCES.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax import kwargs
from vlm_jax.data.array_record import ArrayRecord
from vlm_jax.data.easy_vqa import EasyVQA
from vlm_jax.data.emoji import Emoji
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.mixture import Mixture, announce
from vlm_jax.data.moving_scenes import MovingScenes
from vlm_jax.data.parquet import Parquet
from vlm_jax.data.rendered_words import RenderedWords
from vlm_jax.data.scene_dialogues import SceneDialogues
from vlm_jax.data.scene_sounds import SceneSounds
from vlm_jax.data.scenes import Scenes
from vlm_jax.data.schema import DataError, Example, Source, inside
from vlm_jax.data.stamps import Stamps
from vlm_jax.data.tfds_source import Tfds
from vlm_jax.data.tones import Tones
from vlm_jax.data.video_images import ShuffledFrames
from vlm_jax.data.webdataset import WebDataset


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
        return self._source[int(self._indices[inside(index, self)])]


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
        inside(index, self)
        position = int(np.searchsorted(self._ends, index, side="right"))
        example = self._source[position]
        which = index - int(self._ends[position]) + len(example["questions"])
        question = example["questions"][which]
        return {**example, "id": f"{example['id']}/{which}", "questions": [question]}


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
    """A `Mixture` of other sources' configs; what it consists of is logged."""
    return announce(Mixture([make_source(source) for source in sources], weights))


def questions(source: Mapping[str, Any]) -> Questions:
    """`flatten_questions` of another source's config."""
    return flatten_questions(make_source(source))


def shuffled_frames(source: Mapping[str, Any]) -> ShuffledFrames:
    """Another source's config with the frames of every video in a random order."""
    return ShuffledFrames(make_source(source))


def scene_sounds(source: Mapping[str, Any], seed: int = 0) -> SceneSounds:
    """Another source's config whose scenes have sounds, too."""
    return SceneSounds(make_source(source), seed)


def retrieved(
    source: Mapping[str, Any], memory: str | Mapping[str, Any], k: int = 4, own: bool = False
) -> Source:
    """Another source's config with the texts of its neighbours in a memory; see
    `vlm_jax.memory.neighbours`.
    """
    from vlm_jax.memory import neighbours  # late: the one source that computes with JAX

    return neighbours.retrieved(make_source(source), memory, k, own)


def features(source: Mapping[str, Any], **encoders: Any) -> Source:
    """Another source's config with what frozen encoders make of it; see `vlm_jax.features.cached`
    for the other keys.
    """
    from vlm_jax.features import cached  # late: computes with JAX what is not kept yet

    return kwargs.call(cached, {"source": make_source(source), **encoders}, "source")


SOURCES: dict[str, Callable[..., Any]] = {
    "scenes": Scenes,
    "moving_scenes": MovingScenes,
    "scene_dialogues": SceneDialogues,
    "scene_sounds": scene_sounds,
    "tones": Tones,
    "rendered_words": RenderedWords,
    "jsonl": Jsonl,
    "easy_vqa": EasyVQA,
    "emoji": Emoji,
    "tfds": Tfds,
    "webdataset": WebDataset,
    "parquet": Parquet,
    "array_record": ArrayRecord,
    "subset": subset,
    "mixture": mixture,
    "questions": questions,
    "shuffled_frames": shuffled_frames,
    "features": features,
    "stamps": Stamps,
    "retrieved": retrieved,
}
"""What a config's source names mean; the other keys of the config are the keyword arguments."""


def make_source(config: Mapping[str, Any]) -> Source:
    """The source of a config {"name": one of SOURCES, **its keyword arguments}.

    Raises ValueError for an unknown name and TypeError for an unknown or missing key, with a
    suggestion; DataError from the source itself.
    """
    return kwargs.build(SOURCES, config, "source")
