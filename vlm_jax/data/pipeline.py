"""From a source to batches: decode, augment, let each task preprocess, stack.

Training batches are a function of (seed, position) alone: the order and every random choice are the
same for any number of threads and processes, so that a run can go on from a step number.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grain
import numpy as np

from vlm_jax.data import images
from vlm_jax.data.augment import Augment, swap_sides
from vlm_jax.data.order import shuffled
from vlm_jax.data.schema import DataError, Example, Source

Preprocess = Callable[[Example, np.random.Generator | None], Mapping[str, np.ndarray]]

MAX_IN_A_ROW = 100
"""A source with this many broken examples next to each other is broken itself."""


@dataclass(frozen=True)
class ImageReader:
    """How an example's image becomes pixels.

    size: H and W. fit: "stretch" to the square, "crop" the centre after scaling the shortest side
    (to `shortest` pixels, by default to size), or "pad" to a square first. method: one of
    `images.METHODS`. augment: applied in training only.
    """

    size: int
    fit: str = "stretch"
    method: str = "bicubic"
    shortest: int | None = None
    augment: Augment | None = None

    def __call__(self, image: Any, rng: np.random.Generator | None) -> tuple[np.ndarray, bool]:
        """uint8[size, size, 3], and whether it was mirrored in a way that texts must follow.
        DataError if unreadable.

        Float arrays are features and pass unchanged.
        """
        if isinstance(image, np.ndarray) and image.dtype == np.float32:
            return image, False
        pixels, flipped = images.decode(image), False
        if rng is not None and self.augment is not None:
            pixels, flipped = self.augment(pixels, rng)
        return images.fit(pixels, self.size, self.fit, self.method, self.shortest), flipped


@dataclass
class Skipped:
    """Broken examples met so far: how many, and what was wrong with the first few."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Counts one, and warns about the first ten of them."""
        self.count += 1
        if len(self.reasons) < 10:
            self.reasons.append(reason)
            logging.warning("skipped a broken example: %s", reason)


@dataclass(frozen=True)
class Loader:
    """Position in a source to one preprocessed example.

    tasks: task name to its preprocess function. on_error: "skip" uses the next sound example in
    place of a broken one, and counts it; "raise" stops there.
    """

    source: Source
    read: ImageReader
    tasks: Mapping[str, Preprocess]
    on_error: str = "skip"
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self):
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f'config.data.on_error={self.on_error!r}: choose "skip" or "raise"')

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """{"image": uint8[H, W, 3], "index": i32, task: {...}}. DataError as `on_error` says."""
        for offset in range(min(MAX_IN_A_ROW, len(self.source))):
            position = (index + offset) % len(self.source)
            try:
                return self.load(position, rng)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self.skipped.add(str(error))
        raise DataError(
            f"{self.source.name}: {offset + 1} examples in a row cannot be used, the first of "
            "them because: "
            f"{self.skipped.reasons[0]}"
        )

    def pictures(self) -> "Loader":
        """The same from the pictures of a source that holds features of them: with features alone,
        the parameters of encoders would not be made.
        """
        return replace(self, source=getattr(self.source, "pictures", self.source))

    def load(self, position: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """The example at exactly this position."""
        example = self.source[position]
        try:
            known = example.get("features")
            image, flipped = (known, False) if known else self.read(example["image"], rng)
            if flipped:
                example = mirrored(example)
            inputs = {name: preprocess(example, rng) for name, preprocess in self.tasks.items()}
        except DataError as error:
            raise DataError(f"{self.source.name}, example {example['id']}: {error}") from error
        return {"image": image, "index": np.int32(position), **inputs}


def several(preprocess: Preprocess, field: str, count: int) -> Preprocess:
    """`preprocess` of `count` texts of an example, stacked along a new first axis.

    field: "captions" or "questions". The texts are drawn without repeats as long as there are new
    ones; without rng they come in order.
    """

    def stacked(example: Example, rng: np.random.Generator | None) -> Mapping[str, np.ndarray]:
        texts: list = example[field]
        if not texts:
            return preprocess(example, rng)  # which says what is missing
        order = np.arange(len(texts)) if rng is None else rng.permutation(len(texts))
        views: list[Any] = [{**example, field: [texts[i]]} for i in np.resize(order, count)]
        return stack([dict(preprocess(view, rng)) for view in views])

    return stacked


def mirrored(example: Example) -> Example:
    """The example with left and right exchanged in its captions, questions and answers."""
    copy = example.copy()
    copy["captions"] = [swap_sides(caption) for caption in example["captions"]]
    if "retrieved" in example:
        copy["retrieved"] = [swap_sides(text) for text in example["retrieved"]]
    copy["questions"] = [question.copy() for question in example["questions"]]
    for question in copy["questions"]:
        question["question"] = swap_sides(question["question"])
        question["answers"] = [swap_sides(answer) for answer in question["answers"]]
    return copy


def train_batches(
    loader: Loader,
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
    threads: int = 2,
    prefetch: int = 4,
) -> grain.IterDataset:
    """An endless shuffled stream of this process's share of each global batch; iterate it,
    `get_state`, `set_state`.

    batch_size: global. rows: those of every batch that this process reads, None for all. prefetch:
    batches kept ready. The order of examples, and what augmentation does to each, depend on the
    seed only; a state is that of every process, of as many as there may be.
    """
    share = range(batch_size) if rows is None else rows
    stream = shuffled(loader.source, seed)
    stream = stream.random_map(lambda index, rng: loader(int(index), rng))

    def batch(step: int) -> dict[str, Any]:
        read: list[Any] = [stream[int(step) * batch_size + row] for row in share]
        return stack(read)

    steps = grain.MapDataset.range(2**31 - 1).map(batch)
    return steps.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )


def eval_batches(
    loader: Loader, *, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Every example of the source once, in order; every process yields the same number of equally
    large batches.

    rows: those of every batch that this process reads, None for all. Rows that only fill up the
    last batch, and broken examples (counted in loader.skipped), have valid = False.
    """
    count = len(loader.source)
    share = range(batch_size) if rows is None else rows
    filler: dict[str, Any] = {}
    for start in range(0, count, batch_size):
        read: list[dict[str, Any]] = []
        for position in (start + row for row in share):
            try:
                if position < count:
                    read.append(loader.load(position, None) | {"valid": np.bool_(True)})
                    continue
            except DataError as error:
                loader.skipped.add(str(error))
            filler = filler or _filler(loader)
            read.append(filler)
        yield stack(read)


def _filler(loader: Loader) -> dict[str, Any]:
    """A sound example marked as not valid: real contents, so that nothing computed from it can be
    NaN.
    """
    uncounted = replace(loader, on_error="skip", skipped=Skipped())
    return uncounted(0) | {"valid": np.bool_(False)}


def stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Nested dicts of arrays, stacked along a new first axis. ValueError naming the key if the
    shapes differ.
    """
    first, stacked = rows[0], {}
    for key, value in first.items():
        column = [row[key] for row in rows]
        if isinstance(value, Mapping):
            stacked[key] = stack(column)
            continue
        shapes = {np.shape(x) for x in column}
        if len(shapes) > 1:
            raise ValueError(
                f"cannot stack {key!r}: its shapes within one batch are {sorted(shapes)}"
            )
        stacked[key] = np.stack(column)
    return stacked
