"""Notes by synthesis: waveforms of one pitch, and several of them one after the other."""

from collections.abc import Callable, Sequence
from math import pi
from typing import NamedTuple

import numpy as np

Wave = Callable[[np.ndarray], np.ndarray]
_EDGE = 0.01  # seconds in which a note swells and dies away


class Note(NamedTuple):
    """timbre: a key of WAVES. hertz: pitch. start, length: seconds. level: amplitude in [0, 1]."""

    timbre: str
    hertz: float
    start: float
    length: float
    level: float


def _sums(numbers: Sequence[int], power: float) -> Wave:
    """Harmonics of these numbers, the n-th with amplitude 1 / n ** power, of a phase in turns."""

    def wave(turns: np.ndarray) -> np.ndarray:
        weights = np.array([[1 / n**power] for n in numbers])
        parts = weights * np.sin(2 * pi * np.outer(numbers, turns))
        return parts.sum(axis=0) / weights.sum()

    return wave


WAVES: dict[str, Wave] = {
    "pure": _sums((1,), 1),
    "hollow": _sums((1, 3, 5), 1),
    "soft": _sums((1, 3), 2),
    "bright": _sums((1, 2, 3, 4), 0.5),
    "bell": lambda t: (np.sin(2 * pi * t) + np.sin(2 * pi * 2.76 * t)) / 2,
    "reed": _sums((2, 3), 0.5),
}
"""Timbre -> one period's shape, as a function of the phase in turns, in [-1, 1]. Few harmonics:
what lies above half the sampling rate would come back as other tones.
"""

FALLS = {"bell": 6.0}
"""Timbre -> how fast it dies away, in powers of e a second; the others do not."""

PULSES = {"reed": 24.0}
"""Timbre -> how often a second it swells."""


def synthesise(
    notes: Sequence[Note], rate: int, seconds: float, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """The notes together, f32[n] in [-1, 1], with white noise of that standard deviation, until the
    last one ends, but at most `seconds`. Phases are drawn at random.
    """
    lasts = max((note.start + note.length for note in notes), default=0.0)
    samples = np.zeros(max(1, round(min(lasts, seconds) * rate)))
    for note in notes:
        first = round(note.start * rate)
        time = np.arange(max(0, min(round(note.length * rate), len(samples) - first))) / rate
        wave = WAVES[note.timbre](note.hertz * time + rng.random())
        edges = np.minimum(1.0, np.minimum(time, note.length - time) / _EDGE)
        shape = np.maximum(0.0, edges) * np.exp(-FALLS.get(note.timbre, 0.0) * time)
        if note.timbre in PULSES:
            shape = shape * (0.6 + 0.4 * np.sin(2 * pi * PULSES[note.timbre] * time))
        samples[first : first + len(time)] += note.level * shape * wave
    samples += noise * rng.standard_normal(len(samples))
    return np.clip(samples, -1.0, 1.0).astype(np.float32)
