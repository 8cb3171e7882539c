"""A video in a few pictures: the parts between which it changes most, a frame of each part with its
time stamp, and a sentence about it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_jax.data.video import VideoReader, shrunk, spread
from vlm_jax.data.video_images import VideoFile

SIDE = 512
"""Longest side of the frames that are looked at, in pixels."""


class Part(NamedTuple):
    """start, end: seconds. time: of the key frame, seconds. caption: of the part. picture: the key
    frame, u8[H, W, 3].
    """

    start: float
    end: float
    time: float
    caption: str
    picture: np.ndarray


def summarise(model: Any, path: str, parts: int = 5, frames: int = 48) -> list[Part]:
    """At most `parts` parts of the video file, in order; the whole of it is looked at in `frames`
    frames, spread evenly, so memory does not depend on its length.

    model: of `vlm_jax.load`, for captioning. A model of videos describes frames of the part, one of
    pictures the key frame. DataError for a video that cannot be read.
    """
    with VideoReader(path) as video:
        seconds = video.seconds
        seen = [
            (frame.time, shrunk(frame.pixels, SIDE)) for frame in video.at(spread(seconds, frames))
        ]
    times, pictures = zip(*seen, strict=True)
    vectors = model.features(list(pictures))
    bounds = cuts(vectors, parts)
    step = seconds / frames
    keys = [first + central(vectors[first:last]) for first, last in bounds]
    spans = [(round(first * step, 3), round(last * step, 3)) for first, last in bounds]
    clips: list[Any] = [VideoFile(path, start, end) for start, end in spans]
    if model.run.experiment.read.frames is None:
        clips = [pictures[key] for key in keys]
    captions = model.caption(clips)
    return [
        Part(*span, round(times[key], 3), caption, pictures[key])
        for span, key, caption in zip(spans, keys, captions, strict=True)
    ]


def cuts(vectors: Float[np.ndarray, "N D"], parts: int) -> list[tuple[int, int]]:
    """At most `parts` ranges (first, end) that cover all N frames: cut where the direction of their
    vectors changes most from one frame to the next, but not twice in a row, and nowhere where it
    changes by less than 1e-4. ValueError for less than one part.
    """
    if parts < 1:
        raise ValueError(f"{parts} parts of a video: ask for at least one")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    change = 1 - np.sum(unit[1:] * unit[:-1], axis=1)  # [N - 1]
    chosen: list[int] = []
    for place in np.argsort(-change, kind="stable"):
        if len(chosen) == parts - 1 or change[place] < 1e-4:
            break
        if all(abs(place - other) > 1 for other in chosen):
            chosen.append(int(place))
    edges = [0, *sorted(place + 1 for place in chosen), len(vectors)]
    return list(pairwise(edges))


def central(vectors: Float[np.ndarray, "N D"]) -> int:
    """The frame nearest to the mean of all; of equals the one nearest to the middle."""
    away = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    late = np.abs(np.arange(len(vectors)) - (len(vectors) - 1) / 2)
    return int(np.lexsort((late, away.round(6)))[0])


def sheet(parts: Sequence[Part], name: str) -> Image.Image:
    """The key frames as one picture, each above its time stamp and sentence; the video's name is
    below the middle one.
    """
    from vlm_jax.memory.sheet import Tile, contact_sheet  # late: only where a picture is wanted

    tiles = [Tile(part.picture, f"{clock(part.time)} {part.caption}") for part in parts]
    return contact_sheet(Tile(parts[len(parts) // 2].picture, name), tiles)


def clock(seconds: float) -> str:
    """Such as "0:07.5" or "1:02:03.0"."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
