"""Sounds as examples hold them, decoded by PyAV from any file that has one, and as a model gets
them: bytes of a log-mel spectrogram.

Of a file only the wanted seconds are decoded, found by a search, so that memory does not grow with
its length.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import kwargs
from vlm_jax.data.schema import Audio, DataError
from vlm_jax.data.spectrogram import Mel, log_mel, to_bytes
from vlm_jax.data.video import open_file

MAX_BYTES = 2**28
"""Most that `read` returns: 70 minutes at 16 kHz."""


def read(
    source: str | os.PathLike[str] | bytes,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    rate: int = 16_000,
) -> np.ndarray:
    """All channels of a file's first sound as one, f32[n] in [-1, 1], `rate` samples a second.

    source: a path, or the bytes of a file; videos have a sound, too. Shorter than asked for if the
    file ends before. DataError, naming the file, if there is none, it is empty, has no audio
    stream, nothing from second `start` on, cannot be decoded or is more than MAX_BYTES; and without
    PyAV. ValueError for a rate, start or length out of range.
    """
    if rate < 1 or start < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(
            f"rate={rate}, start={start} and seconds={seconds}: a rate is at least 1, a start at "
            "least 0, a length above 0"
        )
    name = "an encoded sound" if isinstance(source, bytes) else os.fspath(source)
    first = round(start * rate)
    last = None if seconds is None else first + round(seconds * rate)
    errors, container = open_file(source, name, "sound")
    parts, size, at = [], 0, 0
    with container:
        lasts = (container.duration or 0) / 1e6
        try:
            for at, part in _decoded(container, name, start, rate):
                kept = part[max(0, first - at) : None if last is None else max(0, last - at)]
                parts.append(kept)
                size += kept.nbytes
                if size > MAX_BYTES:
                    raise DataError(
                        f"{name} is more than {MAX_BYTES:,} bytes of sound: read a part of it, by "
                        "start and seconds"
                    )
                at += len(part)
                if last is not None and at >= last:
                    break
        except errors as error:
            raise DataError(
                f"{name} cannot be decoded after {at / rate:.2f} s, it may be truncated or "
                f"damaged: {error}"
            ) from None
    if not size and start > 0:
        lasts = max(at / rate, lasts)
        raise DataError(f"{name} lasts {lasts:.2f} s: there is nothing from {start:.2f} s on")
    if not size:
        raise DataError(f"{name} holds no sound: its audio stream is empty")
    return np.concatenate(parts)


def _decoded(
    container: Any, name: str, start: float, rate: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(position of the first sample, f32[n]) of each piece of a sound, from `start` or before."""
    from av import AudioResampler  # late: an extra

    if not container.streams.audio:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(f"{name} has no audio stream, only: {', '.join(kinds) or 'nothing at all'}")
    stream = container.streams.audio[0]
    origin = float((stream.start_time or 0) * stream.time_base)
    if start > 0:
        container.seek(int((start + origin) / stream.time_base), stream=stream)
    # The mean of the channels is ours: the resampler's mix of several may be louder than each.
    resampler = AudioResampler(format="fltp", rate=rate)
    at = None
    for frame in container.decode(stream):
        if at is None:
            at = 0 if frame.time is None else round((float(frame.time) - origin) * rate)
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray().mean(axis=0)
            yield at, samples
            at += len(samples)
    if at is not None:
        for piece in resampler.resample(None):
            yield at, piece.to_ndarray().mean(axis=0)


@dataclass(frozen=True)
class AudioFile:
    """The sound of a file from second `start` on (see `schema.Audio`)."""

    path: str | bytes
    start: float = 0.0

    def __str__(self) -> str:
        return "an encoded sound" if isinstance(self.path, bytes) else self.path

    def __call__(self, rate: int, seconds: float) -> np.ndarray:
        """f32[n] of at most so many seconds; DataError as `read`."""
        return read(self.path, start=self.start, seconds=seconds, rate=rate)


@dataclass(frozen=True, eq=False)
class Waveform:
    """Samples in memory (see `schema.Audio`): f32[n] or f64[n] in [-1, 1], or i16[n], `rate` of
    them a second. DataError for others, none, or values that are not finite.
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self):
        """Checks both."""
        kind, shape = np.asarray(self.samples).dtype, np.shape(self.samples)
        if kind not in (np.float32, np.float64, np.int16) or len(shape) != 1 or not shape[0]:
            raise DataError(
                f"a sound array is float or int16 [samples] of one channel and not empty, this is "
                f"{kind} {list(shape)}"
            )
        if not np.isfinite(self.samples).all():
            raise DataError("a sound array holds NaN or infinity")
        if not isinstance(self.rate, int | np.integer) or self.rate < 1:
            raise DataError(
                f"rate={self.rate!r} of a sound array: how many samples a second, whole"
            )

    def __call__(self, rate: int, seconds: float) -> np.ndarray:
        """f32[n] of at most so many seconds."""
        samples = self.samples[: round(seconds * self.rate)]
        scale = 32_768.0 if samples.dtype == np.int16 else 1.0
        return resampled((samples / scale).astype(np.float32), int(self.rate), rate)


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """f32[n] at another rate. DataError without PyAV, if the rates differ."""
    if rate == wanted:
        return samples
    try:
        from av import AudioFrame, AudioResampler
    except ImportError:
        raise DataError(
            f"a sound of rate {rate} for a model of rate {wanted} needs PyAV; run: pip install av"
        ) from None
    frame = AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=wanted)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def as_audio(sound: Any) -> Audio:
    """A path, the bytes of a file, (samples, rate), or already a sound, as examples hold one.

    DataError for anything else.
    """
    if isinstance(sound, str | Path | bytes):
        return AudioFile(sound if isinstance(sound, bytes) else str(sound))
    if isinstance(sound, tuple) and len(sound) == 2:
        return Waveform(*sound)
    if callable(sound):
        return sound  # pyright: ignore[reportReturnType]
    raise DataError(
        f"a sound is a path, the bytes of a file or (samples, rate), this is a "
        f"{type(sound).__name__}"
    )


def no_picture() -> Any:
    """The image of an example that has none. DataError."""
    raise DataError("this example is words or a sound without a picture, and this model looks")


@dataclass(frozen=True)
class AudioReader:
    """How an example's sound becomes a picture of its frequencies over time.

    seconds: of its beginning; silence follows a shorter one. mel: what `spectrogram.Mel` is made
    from. quiet, loud: decibels that become 0 and 255 (see `spectrogram.to_bytes`): a sine of full
    scale is about 20 dB, and with 100 dB between them rounding loses at most 0.2 dB. ValueError if
    out of range.
    """

    seconds: float
    mel: Mapping[str, Any] | Mel = field(default_factory=Mel)
    quiet: float = -70.0
    loud: float = 30.0

    def __post_init__(self):
        """Checks the ranges."""
        if not isinstance(self.mel, Mel):
            made = kwargs.call(Mel, dict(self.mel), "config.data.audio.mel")
            object.__setattr__(self, "mel", made)
        if self.quiet >= self.loud:
            raise ValueError(f"quiet={self.quiet} must be less than loud={self.loud}")
        if self.shape[1] < 1:
            raise ValueError(f"seconds={self.seconds} are less than one hop of the spectrogram")

    @property
    def shape(self) -> tuple[int, int]:
        """Bins and frames."""
        mel = self.mel
        assert isinstance(mel, Mel)
        return mel.bins, round(self.seconds * mel.rate) // mel.hop

    def __call__(self, audio: Audio | None) -> np.ndarray:
        """uint8[bins, frames], the lowest frequency first. DataError without a sound, or for one
        that cannot be read.
        """
        if audio is None:
            raise DataError("it has no sound, which this model listens to")
        mel, (_, frames) = self.mel, self.shape
        assert isinstance(mel, Mel)
        length = frames * mel.hop if mel.centred else (frames - 1) * mel.hop + mel.window
        sound = audio(mel.rate, length / mel.rate)[:length]
        levels = log_mel(np.pad(sound, (0, length - len(sound))), mel)[:, :frames]
        return to_bytes(levels, self.quiet, self.loud)


def picture(audio: Audio, seconds: float = 3.0) -> np.ndarray:
    """The spectrogram of a sound's beginning as people look at it: u8[bins, frames, 3], grey, low
    frequencies at the bottom. DataError as the sound.
    """
    levels = AudioReader(seconds)(audio)[::-1]
    return np.repeat(levels[..., None], 3, axis=2)
