"""Videos as examples hold them: files, frames in memory, and either with its frames shuffled."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.data.schema import DataError, Example, Pixels, Source, Video
from vlm_jax.data.video import VideoReader, paced, spread

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv")
SUFFIXES += (".wmv", ".flv", ".3gp")


@dataclass(frozen=True)
class VideoFile:
    """A video file, or what it shows from second `start` to `end` (None: its last), as the image of
    an example (see `schema.Video`).
    """

    path: str
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return self.path

    def __call__(self) -> np.ndarray:
        """The frame in the middle, u8[H, W, 3]."""
        return next(self.frames(1))

    def frames(self, count: int) -> Iterator[np.ndarray]:
        """u8[H, W, 3] each, spread evenly; DataError as `VideoReader`, and for no such part."""
        with VideoReader(self.path) as video:
            for frame in video.at([self.start + t for t in spread(self._lasts(video), count)]):
                yield frame.pixels

    def paced(self, **pace: Any) -> Iterator[np.ndarray]:
        """u8[H, W, 3] each, so many a second; pace, errors: as `data.video.paced` and `frames`."""
        with VideoReader(self.path) as video:
            for frame in video.at(self._paced(video, pace)):
                yield frame.pixels

    def count(self, **pace: Any) -> int:
        """How many frames `paced` yields."""
        with VideoReader(self.path) as video:
            return len(self._paced(video, pace))

    def _paced(self, video: VideoReader, pace: dict[str, Any]) -> list[float]:
        """Seconds at which the chosen frames are on screen, the middles of their time."""
        total = max(1, round(self._lasts(video) * video.rate))
        return [self.start + (i + 0.5) / video.rate for i in paced(total, video.rate, **pace)]

    def _lasts(self, video: VideoReader) -> float:
        """Seconds from start to end."""
        end = video.seconds if self.end is None else min(self.end, video.seconds)
        if not 0 <= self.start < end:
            raise DataError(
                f"{self.path} lasts {video.seconds:.2f} s: there is nothing between "
                f"{self.start:.2f} and {end:.2f} s"
            )
        return end - self.start


@dataclass(frozen=True, eq=False)
class VideoPixels:
    """Frames in memory as the image of an example. pixels: u8[F, H, W, 3]; DataError otherwise."""

    pixels: np.ndarray

    def __post_init__(self):
        shape, kind = self.pixels.shape, self.pixels.dtype
        if kind != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise DataError(f"a video array is uint8 [F, H, W, 3], this is {kind} {list(shape)}")
        if not self.pixels.size:
            raise DataError(f"a video array of shape {list(shape)} holds no frame")

    def __call__(self) -> np.ndarray:
        """The frame in the middle, u8[H, W, 3]."""
        return next(self.frames(1))

    def frames(self, count: int) -> Iterator[np.ndarray]:
        """u8[H, W, 3] each, spread evenly."""
        return (self.pixels[int(time)] for time in spread(len(self.pixels), count))


def frames_shown(video: Video, count: int, pace: Mapping[str, Any] | None) -> Iterator[Pixels]:
    """A video's frames: of a file as many as it is long, if `pace` says how (see `video.paced`),
    else `count` of them, spread evenly, as of whatever has no clock.
    """
    if pace is None or not isinstance(video, VideoFile):
        return video.frames(count)
    return video.paced(**pace)


def shown_frames(video: Video, count: int, pace: Mapping[str, Any] | None) -> int:
    """How many frames `frames_shown` yields."""
    return count if pace is None or not isinstance(video, VideoFile) else video.count(**pace)


def as_image(image: Any) -> Any:
    """A path with the suffix of a video, or u8[F, H, W, 3], as the image of an example; anything
    else as it is.
    """
    if isinstance(image, str | Path) and Path(image).suffix.lower() in SUFFIXES:
        return VideoFile(str(image))
    if isinstance(image, np.ndarray) and image.ndim == 4:
        return VideoPixels(image)
    return image


@dataclass(frozen=True)
class ShuffledVideo:
    """A video whose frames come in another order, the same at every call."""

    video: Video
    seed: int

    def __call__(self) -> Pixels:
        """The frame in the middle of the sound order."""
        return self.video()

    def frames(self, count: int) -> Iterator[Pixels]:
        """The frames in a random order that is not their own, unless there is just one."""
        found, rng = list(self.video.frames(count)), np.random.default_rng(self.seed)
        order = np.arange(len(found))
        while len(found) > 1 and (order == np.arange(len(found))).all():
            order = rng.permutation(len(found))
        return (found[i] for i in order)


class ShuffledFrames:
    """Another source with the frames of each video in a random order, which depends on its id:
    what a model loses by it, it had from the order. DataError for an example that is no video.
    """

    def __init__(self, source: Source) -> None:
        self.name, self._source = f"{source.name}/shuffled", source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        video: Callable | Any = example["image"]
        if not isinstance(video, Video):
            raise DataError(f"{self.name}, example {example['id']}: a picture has no frames")
        seed = zlib.crc32(example["id"].encode())
        return {**example, "image": ShuffledVideo(video, seed)}
