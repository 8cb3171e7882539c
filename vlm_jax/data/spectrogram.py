"""Log-mel spectrograms: a sound as a picture of frequency over time.

Power in short overlapping windows, summed by triangular filters that are evenly spaced on a scale
of pitch. The defaults are those of Whisper (arXiv:2212.04356, section 2.2) and close to AST's
(arXiv:2104.01778, section 2.1): 25 ms every 10 ms at 16 kHz.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

SCALES = ("slaney", "htk")


@dataclass(frozen=True)
class Mel:
    """What a spectrogram is made by. rate: samples per second. window, hop, fft: samples of a
    window, from one to the next, and of the transform, which is padded with zeros. bins: number of
    filters between `low` and `high` Hz (None: rate / 2).

    scale: of pitch, "slaney" (linear below 1 kHz) or "htk". unit_area: filters have equal areas
    instead of equal heights. centred: frame i is centred on sample i * hop, with the sound mirrored
    at its ends; otherwise it begins there. floor: least power, so that silence has a logarithm.
    ValueError for what is out of range, or a filter too narrow to see any frequency.
    """

    rate: int = 16_000
    window: int = 400
    hop: int = 160
    fft: int = 400
    bins: int = 80
    low: float = 0.0
    high: float | None = None
    scale: str = "slaney"
    unit_area: bool = True
    centred: bool = True
    floor: float = 1e-10

    def __post_init__(self):
        """Checks the ranges."""
        if self.scale not in SCALES:
            raise ValueError(f"scale={self.scale!r}: choose one of {', '.join(SCALES)}")
        if min(self.rate, self.window, self.hop, self.bins) < 1 or self.fft < self.window:
            raise ValueError(
                f"rate={self.rate}, window={self.window}, hop={self.hop} and bins={self.bins} must "
                f"be at least 1, and fft={self.fft} at least window"
            )
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise ValueError(
                f"low={self.low} and high={self.top} must ascend between 0 and rate / 2"
            )
        seen = filters(self).any(axis=1)
        if not seen.all():
            raise ValueError(
                f"filter {int(np.argmin(seen))} of bins={self.bins} lies between two frequencies "
                f"of fft={self.fft}: use fewer bins or a longer fft"
            )

    @property
    def top(self) -> float:
        """The highest frequency, Hz."""
        return self.rate / 2 if self.high is None else self.high


def to_mel(hertz: Float[np.ndarray, "*n"], scale: str) -> Float[np.ndarray, "*n"]:
    """Pitch of frequencies. "slaney": 15 a kHz up to 1 kHz, above it 27 for a factor of 6.4;
    "htk": 2595 log10(1 + f / 700).
    """
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    above = 15.0 + 27.0 * np.log(np.maximum(hertz, 1000.0) / 1000.0) / math.log(6.4)
    return np.where(hertz < 1000.0, 0.015 * hertz, above)


def to_hertz(mel: Float[np.ndarray, "*n"], scale: str) -> Float[np.ndarray, "*n"]:
    """The inverse of `to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = 1000.0 * 6.4 ** ((np.maximum(mel, 15.0) - 15.0) / 27.0)
    return np.where(mel < 15.0, mel / 0.015, above)


@lru_cache(maxsize=8)
def filters(mel: Mel) -> Float[np.ndarray, "bins frequencies"]:
    """Weights f64[bins, fft // 2 + 1] of frequencies in each filter."""
    low, high = to_mel(np.array([mel.low, mel.top]), mel.scale)
    corners = to_hertz(np.linspace(low, high, mel.bins + 2), mel.scale)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    hertz = np.linspace(0.0, mel.rate / 2, mel.fft // 2 + 1)[None]
    if mel.fft % 2:
        hertz = np.fft.rfftfreq(mel.fft, 1 / mel.rate)[None]
    rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    heights = np.maximum(0.0, np.minimum(rising, falling))
    return heights * (2.0 / (right - left)) if mel.unit_area else heights


@lru_cache(maxsize=8)
def _supports(mel: Mel) -> tuple[np.ndarray, np.ndarray]:
    """Indices i64[bins, w] of w neighbouring frequencies that hold all a filter sees, and their
    weights f64[bins, w].
    """
    weights = filters(mel)
    seen = weights > 0
    first = seen.argmax(axis=1)
    width = int(seen.sum(axis=1).max())
    index = np.minimum(first, weights.shape[1] - width)[:, None] + np.arange(width)[None]
    return index, np.take_along_axis(weights, index, axis=1)


def log_mel(samples: Float[np.ndarray, " n"], mel: Mel) -> Float[np.ndarray, "bins frames"]:
    """log10 of the power in each filter, f32[bins, frames], of a sound in [-1, 1].

    frames: 1 + n // hop if centred, else 1 + (n - window) // hop. ValueError for a sound shorter
    than a window that is not centred, or without a sample.
    """
    sound = np.asarray(samples, np.float64)
    if sound.ndim != 1 or not sound.size:
        raise ValueError(f"a sound is [samples] of at least one, not {list(sound.shape)}")
    if mel.centred:
        sound = np.pad(sound, mel.window // 2, mode="reflect")
    if len(sound) < mel.window:
        raise ValueError(f"{len(samples)} samples are shorter than a window of {mel.window}")
    frames = np.lib.stride_tricks.sliding_window_view(sound, mel.window)[:: mel.hop]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(mel.window) / mel.window)
    spectrum = np.fft.rfft(frames * hann, mel.fft)
    power = np.ascontiguousarray((spectrum.real**2 + spectrum.imag**2).T)
    # A product of matrices would be split among threads, of which reading has some already.
    index, weights = _supports(mel)
    heard = np.einsum("bwf,bw->bf", power[index], weights)
    return np.log10(np.maximum(heard, mel.floor)).astype(np.float32)


def to_bytes(levels: Float[np.ndarray, "*s"], quiet: float, loud: float) -> UInt8[np.ndarray, "*s"]:
    """log10 of power as uint8: 0 is `quiet` decibels and less, 255 `loud` and more. Between them
    the loss is at most (loud - quiet) / 510 decibels.
    """
    share = (10.0 * levels - quiet) / (loud - quiet)
    return np.round(255.0 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def from_bytes(
    levels: UInt8[np.ndarray, "*s"], quiet: float, loud: float
) -> Float[np.ndarray, "*s"]:
    """What `to_bytes` kept of log10 of power, f32."""
    return (quiet + (loud - quiet) / 255.0 * levels.astype(np.float32)) / 10.0
