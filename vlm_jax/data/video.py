"""Frames of video files by their time stamps, through PyAV, in memory that does not grow with the
file.

A frame is shown from its own presentation time stamp until the next one's, so variable frame rates
need no special case: what is on screen at second t is the last frame stamped t or earlier. Between
wanted seconds the file is searched by its key frames, not decoded from end to end.
"""

import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.data.images import MAX_PIXELS, resize
from vlm_jax.data.schema import DataError

MAX_BYTES = 2**30
"""Most that `read` returns at once; `VideoReader.at` gives more, one frame at a time."""

_SAME = 1e-6  # seconds: time stamps are fractions, and sums of them are rounded

_NEAR = 1.0  # seconds ahead that are decoded, not searched for

_STILL = ("image2", "tty")
"""Formats by which FFmpeg reads pictures and texts as if they were videos."""


class Frame(NamedTuple):
    """time: seconds since the video's first frame, when this one is first shown. pixels: u8[H, W,
    3] RGB, upright.
    """

    time: float
    pixels: np.ndarray


class Clip(NamedTuple):
    """times: f64[F], seconds, as in `Frame`. pixels: u8[F, H, W, 3]."""

    times: np.ndarray
    pixels: np.ndarray


def spread(seconds: float, count: int) -> list[float]:
    """The middles of `count` equal parts of [0, seconds]. ValueError for less than one."""
    if count < 1:
        raise ValueError(f"{count} frames of a video: choose at least one")
    return [seconds * (i + 0.5) / count for i in range(count)]


def at_rate(seconds: float, fps: float) -> list[float]:
    """Every 1 / fps seconds from 0 to the end. ValueError for a rate that is not above 0."""
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")
    return [i / fps for i in range(max(1, round(seconds * fps)))]


def paced(total: int, rate: float, *, fps: float, least: int, most: int, depth: int) -> list[int]:
    """Which of `total` frames, of which a second has `rate`, show about `fps` of them a second: n
    of them, each the first of n equal parts, as Qwen2-VL's processor chooses (arXiv:2409.12191,
    section 2.1).

    n is at least `least` and at most `most`, as far as there are so many, rounded down to a
    multiple of `depth`, or `total` if that is less. ValueError for a rate not above 0.
    """
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")
    whole = min(most, total) // depth * depth
    count = int(min(max(total / rate * fps, least), whole)) // depth * depth
    count = count or min(total, depth)
    return [number * total // count for number in range(count)]


class _Decoded(NamedTuple):
    """A frame of PyAV, and its second since the first frame."""

    second: float
    frame: Any


class VideoReader:
    """An open video file: `with VideoReader(path) as video: video.at([0.5, 3.0])`.

    source: a path, or the bytes of a file. name: what errors call it. seconds: how long it lasts.
    rate: frames per second on average, 25 if the file does not say. decoded: how many frames were
    decoded so far, a measure of the work. DataError, naming the file, if there is none, it is
    empty, no video, without a video stream, without a frame or truncated, and without PyAV.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        self.name = "an encoded video" if isinstance(source, bytes) else os.fspath(source)
        self.decoded, self._source, self._origin = 0, source, None
        self._start_over()
        try:
            first = self._next()
            if first is None:
                raise DataError(f"{self.name} holds no frame: its video stream is empty")
            self._stamped = first.frame.time is not None
            self.seconds = max(self._measured(), 1 / self.rate)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def at(self, times: Sequence[float]) -> Iterator[Frame]:
        """What is on screen at these seconds, which ascend, one after the other.

        A frame may come several times. ValueError for seconds that descend; DataError if the file
        ends before a wanted second although its header promises more, or cannot be decoded.
        """
        if list(times) != sorted(times):
            raise ValueError("the seconds of frames to read must ascend")
        self._start_over()
        shown, ahead = self._next(), self._next()
        patience = _NEAR
        for second in times:
            assert shown is not None  # the file's first frame was there when it was opened
            far = ahead is not None and second > max(shown.second + patience, ahead.second)
            if far and self._stamped:
                before = shown.second
                shown = self._jump(second) or shown
                if shown.second <= before:  # key frames are rare: decoding on is quicker
                    patience = 2 * (second - before)
                ahead = self._next()
            while ahead is not None and ahead.second <= second + _SAME:
                shown, ahead = ahead, self._next()
            if ahead is None:
                self._check_end(shown, second)
            yield Frame(shown.second, self._pixels(shown.frame))

    def _start_over(self) -> None:
        """Opens the file anew; to seek back to its start is not possible in all formats."""
        if self.decoded:
            self._container.close()
        self._errors, self._container = open_file(self._source, self.name)
        self._stream = self._video_stream()
        self._frames, self._count = self._container.decode(self._stream), 0

    def _video_stream(self) -> Any:
        """The first stream of moving pictures; a song's cover is none."""
        kind = self._container.format.name
        if kind in _STILL or kind.endswith("_pipe"):
            raise DataError(f"{self.name} is not a video but a picture or a text ({kind})")
        streams = [s for s in self._container.streams.video if not _is_cover(s)]
        if not streams:
            kinds = sorted({stream.type for stream in self._container.streams})
            if not kinds:
                raise DataError(f"{self.name} holds no stream at all: it may be truncated")
            raise DataError(f"{self.name} has no video stream, only: {', '.join(kinds)}")
        return streams[0]

    def _next(self) -> _Decoded | None:
        """The next frame in the order of presentation, None at the end of the file."""
        try:
            frame = next(self._frames, None)
        except EOFError:
            return None
        except self._errors as error:
            where = f" after {self._count} frames" if self._count else ""
            raise DataError(
                f"{self.name} cannot be decoded{where}, it may be truncated or damaged: {error}"
            ) from None
        if frame is None:
            return None
        # Some formats have no time stamps: there the frames are counted.
        stamp = self._count / self.rate if frame.time is None else float(frame.time)
        self._origin = stamp if self._origin is None else self._origin
        self.decoded, self._count = self.decoded + 1, self._count + 1
        return _Decoded(max(0.0, stamp - self._origin), frame)

    @property
    def rate(self) -> float:
        """Frames per second on average, 25 if the file does not say."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    def _measured(self) -> float:
        """How long the video lasts: by its stream, tags, container, or else by all packets."""
        stream, container = self._stream, self._container
        if self._stamped:
            if stream.duration:
                return float(stream.duration * stream.time_base)
            tagged = _clock(stream.metadata.get("DURATION", ""))
            if tagged:
                return tagged
            if container.duration and len(container.streams) == 1:
                return container.duration / 1e6
        self._start_over()
        last, packets = 0.0, 0
        for packet in self._container.demux(self._stream):
            packets += packet.size > 0
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                last = max(last, end - (self._origin or 0.0))
        return last if self._stamped else packets / self.rate

    def _jump(self, second: float) -> _Decoded | None:
        """The first frame from the last key frame at or before a second; the next frame where the
        file cannot be searched.
        """
        stamp = int((second + (self._origin or 0.0)) / self._stream.time_base)
        try:
            self._container.seek(stamp, stream=self._stream)
        except self._errors:
            return self._next()
        self._frames = self._container.decode(self._stream)
        found = self._next()
        if found is None or found.second > second + _SAME:  # the file's index is wrong
            self._start_over()
            found = self._next()
        return found

    def _check_end(self, last: _Decoded, second: float) -> None:
        """DataError if the file's frames end well before a second that its header promises."""
        frame, one = last.frame, 1 / self.rate
        lasts = float((frame.duration or 0) * (frame.time_base or 0))
        end = last.second + max(lasts, one)
        if second > end + max(one, min(0.1 * self.seconds, 1.0)):
            raise DataError(
                f"{self.name} is truncated: it promises {self.seconds:.2f} s, but its frames end "
                f"at {end:.2f} s; copy or download it again"
            )

    def _pixels(self, frame: Any) -> np.ndarray:
        if frame.width * frame.height > MAX_PIXELS:
            raise DataError(
                f"{self.name} has frames of {frame.width} x {frame.height} pixels, more than the "
                f"{MAX_PIXELS:,} that are decoded: scale it down"
            )
        pixels = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, round((frame.rotation or 0) / 90)))


def open_file(
    source: str | os.PathLike[str] | bytes, name: str, kind: str = "video"
) -> tuple[Any, Any]:
    """PyAV's exceptions, and the file opened by it. DataError, naming the file, if there is none,
    it is empty or in no known format, and without PyAV. kind: "video" or "sound", what it is to be.
    """
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise DataError(f"{name}: reading {kind}s needs PyAV; run: pip install av") from None
    if not isinstance(source, bytes) and not os.path.isfile(source):
        wrong = f"is a folder, not a {kind}" if os.path.isdir(source) else "no such file"
        raise DataError(f"{name}: {wrong}; check the path")
    size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    if not size:
        raise DataError(f"{name} is empty: a {kind} of 0 bytes")
    av.logging.set_level(None)  # what matters comes as an exception
    errors: Any = (av.error.FFmpegError, OSError, UnicodeDecodeError)
    try:
        return errors, av.open(io.BytesIO(source) if isinstance(source, bytes) else name)
    except EOFError:
        raise DataError(f"{name} holds no frame: the file ends before its first") from None
    except errors as error:
        if _head(source)[4:8] == b"ftyp":
            raise DataError(
                f"{name} is truncated: its index, which comes last, is missing ({error})"
            ) from None
        raise DataError(f"{name} is not a {kind} in any known format: {error}") from None


def _head(source: str | os.PathLike[str] | bytes) -> bytes:
    """The first twelve bytes."""
    if isinstance(source, bytes):
        return source[:12]
    with open(source, "rb") as file:
        return file.read(12)


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a picture attached to something else."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _clock(text: str) -> float:
    """Seconds of a text such as "00:01:02.500"; 0 for any other."""
    parts = text.split(":")
    try:
        return sum(float(part) * 60.0**i for i, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def read(
    source: str | os.PathLike[str] | bytes,
    count: int | None = None,
    *,
    fps: float | None = None,
    times: Sequence[float] | None = None,
) -> Clip:
    """Frames spread evenly over a video, at a rate, or at given seconds; just one of the three.

    ValueError for none or two of them. DataError as `VideoReader`, and for more than MAX_BYTES.
    """
    if sum(given is not None for given in (count, fps, times)) != 1:
        raise ValueError("choose frames of a video by one of count, fps and times")
    with VideoReader(source) as video:
        if times is None:
            times = spread(video.seconds, count) if count else at_rate(video.seconds, fps or 0)
        found: list[Frame] = []
        for frame in video.at(times):
            if frame.pixels.nbytes * len(times) > MAX_BYTES:
                raise DataError(
                    f"{len(times):,} frames of {video.name} are more than {MAX_BYTES:,} bytes: ask "
                    "for fewer, or read them one at a time with VideoReader.at"
                )
            found.append(frame)
    stamps, pixels = zip(*found, strict=True)
    return Clip(np.array(stamps), np.stack(pixels))


def shrunk(pixels: np.ndarray, most: int) -> np.ndarray:
    """u8[H, W, 3] with its longest side at most `most` pixels, in the same proportions."""
    height, width = pixels.shape[:2]
    scale = min(1.0, most / max(height, width))
    return resize(pixels, max(1, round(scale * height)), max(1, round(scale * width)))
