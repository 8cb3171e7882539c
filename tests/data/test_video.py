"""Frames come by their time stamps, from any second of a file, and broken files are named."""

import tracemalloc

import av
import numpy as np
import pytest

from tests.data import clips
from vlm_jax.data import images, video
from vlm_jax.data.schema import DataError
from vlm_jax.data.video import VideoReader

STEADY = [i / 25 for i in range(20)]
UNEVEN = [0.0, 0.04, 0.08, 0.6, 0.64, 2.0, 2.5, 3.9]


def shades(frames):
    """Which frame of `clips.write` each of these is, by its brightness."""
    return [round(float(np.mean(frame)) / 12) for frame in frames]


def shown(stamps, times):
    """The last frame stamped at each second or before."""
    return [sum(stamp <= time + 1e-6 for stamp in stamps) - 1 for time in times]


@pytest.mark.parametrize(
    ("suffix", "stamps"),  # AVI has one rate for all frames
    [*((kind, STEADY) for kind in ("mp4", "mkv", "avi", "ts")), ("mp4", UNEVEN), ("mkv", UNEVEN)],
)
def test_what_is_on_screen_at_a_second_is_the_last_frame_stamped_by_then(tmp_path, suffix, stamps):
    path = clips.write(tmp_path / f"x.{suffix}", stamps, gop=3)
    times = sorted([*stamps, *(stamp + 0.03 for stamp in stamps)])
    clip = video.read(path, times=times)
    assert shades(clip.pixels) == shown(stamps, times)
    np.testing.assert_allclose(clip.times, [stamps[i] for i in shown(stamps, times)], atol=2e-3)
    assert clip.pixels.dtype == np.uint8 and clip.pixels.shape[1:] == (32, 32, 3)


def test_frames_are_spread_over_the_whole_clip_or_come_at_a_rate(tmp_path):
    path = clips.write(tmp_path / "x.mp4", STEADY)
    assert shades(video.read(path, 5).pixels) == [2, 6, 10, 14, 18]
    assert shades(video.read(path, 1).pixels) == [10]
    assert shades(video.read(path, fps=5).pixels) == [0, 5, 10, 15]
    assert shades(video.read(path.read_bytes(), 2).pixels) == [5, 15]
    assert len(video.read(path, 40).pixels) == 40  # more than there are: some come twice
    for wrong in (dict(), dict(count=3, fps=1), dict(fps=0), dict(times=[0.3, 0.1])):
        with pytest.raises(ValueError):
            video.read(path, **wrong)
    with pytest.raises(ValueError, match="at least one"):
        video.spread(1.0, 0)


def test_one_frame_is_a_video(tmp_path):
    path = clips.write(tmp_path / "x.mp4", [0.0], shade=lambda i: 120)
    assert shades(video.read(path, 3).pixels) == [10, 10, 10]


def test_streams_without_time_stamps_are_counted(tmp_path):
    path = tmp_path / "x.h264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for i in range(10):
            grey = np.full((32, 32, 3), 12 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    assert shades(video.read(path, 5).pixels) == [1, 3, 5, 7, 9]


def test_ten_hours_are_searched_not_decoded(tmp_path):
    path = clips.write(tmp_path / "long.mp4", range(36_000), size=16, gop=50)
    tracemalloc.start()
    with VideoReader(path) as reader:
        assert reader.seconds == pytest.approx(36_000, abs=2)
        times = [frame.time for frame in reader.at(video.spread(reader.seconds, 6))]
        assert reader.decoded < 6 * 53
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    np.testing.assert_allclose(times, [3000, 9000, 15000, 21000, 27000, 33000], atol=1.1)


def test_no_more_is_returned_than_fits(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "x.mp4", STEADY)
    monkeypatch.setattr(video, "MAX_BYTES", 4 * 32 * 32 * 3)
    assert len(video.read(path, 4).pixels) == 4
    with pytest.raises(DataError, match="x.mp4 are more than"):
        video.read(path, 5)


def broken(folder):
    """Path by what is wrong with the file there."""
    whole = clips.write(folder / "whole.mkv", STEADY, gop=4).read_bytes()
    index_last = clips.write(folder / "whole.mp4", STEADY).read_bytes()
    contents = {
        "nothing.mp4": b"",
        "text.mp4": b"just some words\n" * 20,
        "noise.mp4": np.random.default_rng(0).bytes(5000),
        "cut.mp4": index_last[: len(index_last) // 2],
        "cut.mkv": whole[: len(whole) // 2],
        "picture.mp4": images.encode_png(np.zeros((8, 8, 3), np.uint8)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    clips.write_sound(folder / "song.wav")
    with av.open(str(folder / "frameless.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        container.start_encoding()
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mp4", "nothing.mp4 is empty"),
        ("missing.mp4", "missing.mp4: no such file"),
        (".", "is a folder, not a video"),
        ("text.mp4", "text.mp4 is not a video"),
        ("noise.mp4", "noise.mp4 (is not a video|cannot be decoded)"),
        (
            "cut.mp4",
            "cut.mp4 (is truncated: its index|holds no stream at all: it may be truncated)",
        ),
        ("cut.mkv", "cut.mkv is truncated: it promises 0.80 s, but its frames end at 0"),
        ("picture.mp4", "picture.mp4 is not a video but a picture"),
        ("song.wav", "song.wav has no video stream, only: audio"),
        ("frameless.mkv", "frameless.mkv holds no frame"),
    ],
)
def test_broken_files_are_named(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        video.read(broken(tmp_path) / name, 6)


def test_sound_beside_the_picture_does_not_lengthen_it(tmp_path):
    path = clips.write(tmp_path / "x.mkv", STEADY[:10], audio=True)  # 0.4 s, and 1 s of silence
    assert shades(video.read(path, 2).pixels) == [2, 7]


def test_pyav_is_asked_for_by_name(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "x.mp4", STEADY[:2])
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match="x.mp4: reading videos needs PyAV; run: pip install av"):
        video.read(path, 1)
