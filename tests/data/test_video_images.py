"""Videos are images of examples: one picture for some, frames for others."""

import pickle

import numpy as np
import pytest

from tests.data import clips
from vlm_jax.data import images
from vlm_jax.data.schema import DataError, Video, validate
from vlm_jax.data.video_images import (
    ShuffledFrames,
    VideoFile,
    VideoPixels,
    as_image,
    frames_shown,
    shown_frames,
)

STEADY = [i / 25 for i in range(20)]


def shades(frames):
    """Which frame of `clips.write` each of these is, by its brightness."""
    return [round(float(np.mean(frame)) / 12) for frame in frames]


def test_a_file_is_the_image_of_an_example(tmp_path):
    path = clips.write(tmp_path / "x.mp4", STEADY)
    image = as_image(path)
    assert image == VideoFile(str(path)) == pickle.loads(pickle.dumps(image))  # noqa: S301
    assert isinstance(image, Video)
    validate({"id": "1", "image": image, "captions": [], "questions": []}, "here")
    assert shades([images.decode(image)]) == [10]
    assert shades(image.frames(2)) == [5, 15]
    assert shades(VideoFile(str(path), 0.4).frames(2)) == [12, 17]
    assert shades(VideoFile(str(path), 0.2, 0.4).frames(5)) == [5, 6, 7, 8, 9]
    with pytest.raises(DataError, match="nothing between 9.00"):
        VideoFile(str(path), 9.0)()
    assert as_image("x.png") == "x.png"


def test_frames_in_memory_are_a_video():
    pixels = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 12, np.uint8)
    image = as_image(pixels)
    assert isinstance(image, VideoPixels)
    assert shades(image.frames(7)) == list(range(7))
    assert shades([images.decode(image)]) == [3]
    assert shades(image.frames(2)) == [1, 5]
    for wrong in (np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)):
        with pytest.raises(DataError, match="a video array"):
            as_image(wrong)


def test_shuffling_keeps_the_frames_and_never_their_order():
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 12, np.uint8)
    rows = [{"id": str(i), "image": VideoPixels(pixels)} for i in range(20)]
    source = type("Rows", (list,), {"name": "rows"})(rows)
    orders = [shades(row["image"].frames(6)) for row in ShuffledFrames(source)]
    assert all(sorted(order) == list(range(6)) != order for order in orders)
    assert len({tuple(order) for order in orders}) > 10
    assert orders == [shades(row["image"].frames(6)) for row in ShuffledFrames(source)]
    assert shades([ShuffledFrames(source)[0]["image"]()]) == [3]
    assert all(shades(row["image"].frames(1)) == [3] for row in ShuffledFrames(source))
    with pytest.raises(DataError, match="a picture has no frames"):
        ShuffledFrames(type("Rows", (list,), {"name": "rows"})([{"id": "a", "image": b"x"}]))[0]


PACE = dict(fps=5.0, least=2, most=6, depth=2)


def test_a_file_shows_as_many_frames_as_it_is_long(tmp_path):
    image = VideoFile(str(clips.write(tmp_path / "x.mp4", STEADY)))  # 20 frames in 0.8 s
    assert shades(image.paced(**PACE)) == [0, 5, 10, 15] and image.count(**PACE) == 4
    assert shades(image.paced(**PACE | dict(fps=9.0))) == [0, 3, 6, 10, 13, 16]
    part = VideoFile(image.path, 0.2, 0.4)
    assert shades(part.paced(**PACE)) == [5, 7] and part.count(**PACE) == 2
    assert shades(frames_shown(image, 3, PACE)) == [0, 5, 10, 15]
    assert shades(frames_shown(image, 2, None)) == [5, 15] and shown_frames(image, 2, None) == 2
    memory = VideoPixels(np.zeros((9, 2, 2, 3), np.uint8))  # which has no clock
    assert len([*frames_shown(memory, 3, PACE)]) == shown_frames(memory, 3, PACE) == 3
