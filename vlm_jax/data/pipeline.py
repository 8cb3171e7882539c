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

from vlm_jax.data import images, sizes
from vlm_jax.data.audio import AudioReader
from vlm_jax.data.augment import Augment, mirrored
from vlm_jax.data.order import shuffled
from vlm_jax.data.packing import PackedBatches, Packing, join
from vlm_jax.data.schema import DataError, Example, Source, Video
from vlm_jax.data.turns import pictures_of
from vlm_jax.data.video_images import frames_shown
from vlm_jax.kwargs import Pair, pair

Preprocess = Callable[[Example, np.random.Generator | None], Mapping[str, np.ndarray]]

MAX_IN_A_ROW = 100
"""A source with this many broken examples next to each other is broken itself."""


FITS = (*images.FITS, "canvas", "patches", "native", "tiles", "crops", "regions", "none")
"""Ways of making pictures fit, by the `fit` of an InputReader."""


@dataclass(frozen=True)
class InputReader:
    """How an example's picture or video becomes pixels, and its sound a spectrogram.

    size: H and W, one number for a square. fit: "stretch" to it, "crop" the centre after scaling
    the shortest side (to `shortest` pixels, by default to size), one of the others of `images.FITS`
    or "pad" to its shape first. method: one of `images.METHODS`. augment: applied in training only.

    Pictures that keep their proportions (see data.sizes) come with what else the vision encoder
    takes: "canvas", patches of `size` pixels, in blocks of block x block, with `shortest` and
    `longest` sides; "patches", at most `most` of them; "native", patches in blocks, between `least`
    and `most` pixels in all; "tiles" of size x size pixels, with a `longest` side, one of them
    without `split`; "crops", stretched, and what `sizes.crops` cuts out by `crops` (least, most,
    ratio). "regions": no pictures are read, only features f32[R, D] of their regions, R filled up
    to `most` (0: to the most of a batch). "none": neither, the model does not look.

    frames: how many are taken of a video, spread evenly; None: the one in its middle. All of them
    are augmented alike. pace: of a video file as many as it is long, by these arguments of
    `video.paced`; None: `frames`. clip: with fit="native", what `sizes.clip` needs to cut them
    (least, most, depth, perhaps tokens); None: no videos. pictures: how many an example may have,
    in dialogues that show several; None: one. listen: how an example's sound is read; None: the
    model does not listen.
    """

    size: Pair
    fit: str = "stretch"
    method: str = "bicubic"
    shortest: int | None = None
    augment: Augment | None = None
    longest: int | None = None
    block: int = 1
    least: int = 0
    most: int = 0
    split: bool = True
    frames: int | None = None
    pace: Mapping[str, Any] | None = None
    crops: Mapping[str, Any] | None = None
    clip: Mapping[str, int] | None = None
    pictures: int | None = None
    listen: AudioReader | None = None

    def __post_init__(self):
        """ValueError for another fit, or one that lacks a number."""
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r}: choose one of {', '.join(FITS)}")
        needs = {"canvas": ("shortest", "longest"), "tiles": ("longest",)}
        needs |= {"patches": ("most",), "native": ("most",), "crops": ("crops",)}
        missing = [name for name in needs.get(self.fit, ()) if not getattr(self, name)]
        if missing:
            raise ValueError(f"fit={self.fit!r} needs {' and '.join(missing)}")
        able = (*images.FITS, "canvas", "regions")
        if self.pictures is not None and (self.pictures < 1 or self.fit not in able):
            shown = f"pictures={self.pictures} with fit={self.fit!r}: at least one picture, all of"
            raise ValueError(f"{shown} one size; choose one of {', '.join(able)}")
        moving = self.fit in images.FITS or (self.fit == "native" and self.clip is not None)
        if self.frames is not None and (self.frames < 1 or not moving):
            raise ValueError(
                f"frames={self.frames} with fit={self.fit!r}: videos need at least one frame, all "
                f"of one size; choose one of {', '.join(images.FITS)}"
            )

    def only(self, *kinds: str) -> "InputReader":
        """The same for "image", "audio" or both of them alone."""
        fit = self.fit if "image" in kinds else "none"
        return replace(self, fit=fit, listen=self.listen if "audio" in kinds else None)

    @property
    def ragged(self) -> bool:
        """Whether arrays of different pictures may differ in the length of their first axis."""
        return self.fit in ("native", "tiles", "crops") or (self.fit == "regions" and not self.most)

    def __call__(self, image: Any, rng: np.random.Generator | None) -> tuple[Any, bool]:
        """uint8[H, W, 3], of videos uint8[frames, H, W, 3], or for pictures that keep their
        proportions the arrays of data.sizes; and whether it was mirrored in a way that texts
        must follow. DataError if unreadable.

        Float arrays are features and pass unchanged, those of regions with a mask.
        """
        if isinstance(image, np.ndarray) and image.dtype == np.float32:
            return (sizes.regions(image, self.most) if self.fit == "regions" else image), False
        if self.fit == "regions":
            raise DataError(
                f"this model reads features of detected regions, f32[regions, {self.size}], and "
                "no pictures: give those, which a detector must make beforehand, in their place"
            )
        if self.frames is not None and isinstance(image, Video):
            return self._video(image, rng)
        pixels, flipped = self._augmented(images.decode(image), rng)
        return self._fitted(pixels), flipped

    def several(self, shown: Sequence[Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """All pictures of an example as `VisionLanguageModel.encode_image` reads tiles: pixels
        uint8[pictures, H, W, 3], black beyond the last, and tiles bool[pictures], which are
        there; perhaps masks of patches. Regions are joined. DataError for more than `pictures`.
        """
        count = self.pictures or 1
        if len(shown) > count:
            raise DataError(f"{len(shown)} pictures, but data.image.pictures={count}: raise it")
        if self.fit == "regions":
            return self(np.concatenate([np.atleast_2d(x) for x in shown]), rng)[0]
        there = np.arange(count) < len(shown)
        if self.fit == "canvas":
            read = [self(image, rng)[0] for image in shown]
            read += [{name: x * 0 for name, x in read[0].items()}] * (count - len(read))
            return stack(read) | {"tiles": there}
        pixels = np.zeros((count, *pair(self.size), 3), np.uint8)
        for number, image in enumerate(shown):
            pixels[number] = self(image, rng)[0]
        return {"pixels": pixels, "tiles": there}

    def _augmented(
        self, pixels: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, bool]:
        if rng is None or self.augment is None:
            return pixels, False
        return self.augment(pixels, rng)

    def _video(self, video: Video, rng: np.random.Generator | None) -> tuple[Any, bool]:
        seed = None if rng is None else rng.integers(2**63)
        found, flipped = [], False
        for frame in frames_shown(video, self.frames or 1, self.pace):
            same = None if seed is None else np.random.default_rng(seed)
            pixels, flipped = self._augmented(images.decode(frame), same)
            found.append(pixels if self.clip else self._fitted(pixels))
        if not found:
            raise DataError("a video without frames")
        if self.clip:
            return sizes.clip(
                found, images.side(self.size), self.block, self.method, **self.clip
            ), flipped
        return np.stack(found), flipped

    def _fitted(self, pixels: np.ndarray) -> Any:
        if self.fit not in ("canvas", "patches", "native", "tiles", "crops"):
            return images.fit(pixels, self.size, self.fit, self.method, self.shortest)
        size, method, longest = images.side(self.size), self.method, self.longest or 0
        if self.fit == "canvas":
            lengths = (self.shortest or longest, longest)
            return sizes.canvas(pixels, size, *lengths, self.block, method)
        if self.fit == "patches":
            return sizes.at_most(pixels, size, self.most, method)
        if self.fit == "native":
            return sizes.native(pixels, size, self.block, self.least, self.most, method)
        if self.fit == "crops":
            return sizes.crops(pixels, size, method, **dict(self.crops or {}))
        return sizes.tiles(pixels, size, longest, self.split, method)


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
    read: InputReader
    tasks: Mapping[str, Preprocess]
    on_error: str = "skip"
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self):
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f'config.data.on_error={self.on_error!r}: choose "skip" or "raise"')

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """{"image": uint8[H, W, 3], "audio": uint8[bins, frames], "index": i32, task: {...}}, the
        first two if `read` reads them. DataError as `on_error` says.
        """
        reasons = []
        for offset in range(min(MAX_IN_A_ROW, len(self.source))):
            position = (index + offset) % len(self.source)
            try:
                return self.load(position, rng)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                reasons.append(str(error))
                self.skipped.add(reasons[-1])
        raise DataError(
            f"{self.source.name}: {len(reasons)} examples in a row cannot be used, the first of "
            f"them because: {reasons[0]}"
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
            image, flipped = (known, False) if known else self._image(example, rng)
            if flipped:
                example = mirrored(example)
            if isinstance(image, Mapping) and "grid" in image:
                example = with_grid(example, image["grid"])
            inputs = {name: preprocess(example, rng) for name, preprocess in self.tasks.items()}
            listen = self.read.listen
            heard = {} if listen is None else {"audio": listen(example.get("audio"))}
        except DataError as error:
            raise DataError(f"{self.source.name}, example {example['id']}: {error}") from error
        seen = {} if image is None else {"image": image}
        return {**seen, **heard, "index": np.int32(position), **inputs}

    def _image(self, example: Example, rng: np.random.Generator | None) -> tuple[Any, bool]:
        if self.read.fit == "none":
            return None, False
        shown = pictures_of(example)
        if self.read.pictures is not None:
            return self.read.several(shown, rng), False
        if len(shown) > 1:
            raise DataError(
                f"{len(shown)} pictures, but this model reads one: set data.image.pictures"
            )
        return self.read(example["image"], rng)


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


def with_grid(example: Example, grid: np.ndarray) -> Example:
    """The example with the rows and columns that its picture was cut into, for its texts."""
    copy: Any = {**example, "grid": (int(grid[0]), int(grid[1]))}
    return copy


def train_batches(
    loader: Loader,
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
    threads: int = 2,
    prefetch: int = 4,
    packing: Packing | None = None,
) -> grain.IterDataset:
    """An endless shuffled stream of this process's share of each global batch; iterate it,
    `get_state`, `set_state`.

    batch_size: global. rows: those of every batch that this process reads, None for all. prefetch:
    batches kept ready. The order of examples, and what augmentation does to each, depend on the
    seed only; a state is that of every process, of as many as there may be (see
    `packing.together`). packing: a row holds several examples, those of row r every batch_size-th
    from r on.
    """
    share = range(batch_size) if rows is None else rows
    stream = shuffled(loader.source, seed)
    stream = stream.random_map(lambda index, rng: loader(int(index), rng))

    if packing is not None:
        example: Any = lambda row, place: stream[place * batch_size + row]
        packed = PackedBatches(packing, share, example, stack, threads)
        return grain.experimental.ThreadPrefetchIterDataset(packed, prefetch_buffer_size=prefetch)

    def batch(step: int) -> dict[str, Any]:
        read: list[Any] = [stream[int(step) * batch_size + row] for row in share]
        return stack(read, loader.read.ragged)

    steps = grain.MapDataset.range(2**31 - 1).map(batch)
    return steps.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )


def example_row(loader: Loader, packing: Packing | None = None) -> dict[str, Any]:
    """One row of a training batch, of the first sound example."""
    example = loader(0)
    return example if packing is None else join([example], packing)


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
        yield stack(read, loader.read.ragged)


def _filler(loader: Loader) -> dict[str, Any]:
    """A sound example marked as not valid: real contents, so that nothing computed from it can be
    NaN.
    """
    uncounted = replace(loader, on_error="skip", skipped=Skipped())
    return uncounted(0) | {"valid": np.bool_(False)}


def stack(rows: list[dict[str, Any]], ragged: bool = False) -> dict[str, Any]:
    """Nested dicts of arrays, stacked along a new first axis. ValueError naming the key if the
    shapes differ.

    ragged: arrays that differ in the length of their first axis alone are filled up with zeros.
    """
    first, stacked = rows[0], {}
    for key, value in first.items():
        column = [row[key] for row in rows]
        if isinstance(value, Mapping):
            stacked[key] = stack(column, ragged)
            continue
        if ragged and len({np.shape(x)[1:] for x in column}) == 1 and np.ndim(value):
            column = _equally_long(column)
        shapes = {np.shape(x) for x in column}
        if len(shapes) > 1:
            raise ValueError(
                f"cannot stack {key!r}: its shapes within one batch are {sorted(shapes)}"
            )
        stacked[key] = np.stack(column)
    return stacked


def _equally_long(column: list[np.ndarray]) -> list[np.ndarray]:
    most = max(len(x) for x in column)
    return [np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in column]
