"""Tone-and-rhythm clips with captions, no pictures: "two short high tones, then a long low buzz".

A clip has one to three groups of equal notes. Number, length, pitch and kind of a group are words
of its caption, in the order in which they sound.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.data import generated
from vlm_jax.data.audio import no_picture
from vlm_jax.data.notes import Note, synthesise
from vlm_jax.data.scene_captions import NUMBERS
from vlm_jax.data.scene_graph import around, pick
from vlm_jax.data.schema import Example

LENGTHS = {"train": 20_000, "val": 1_000, "test": 1_000}
"""Split -> its default length. The position in this dict is part of the random seed."""

KINDS = {"tone": "pure", "whistle": "soft", "buzz": "reed", "bell": "bell", "horn": "bright"}
"""Word -> timbre (see `data.notes`)."""

PITCHES = {"low": 200.0, "middle": 500.0, "high": 1250.0}
DURATIONS = {"short": 0.08, "long": 0.24}
"""Words -> Hz; seconds."""

MOST_GROUPS, MOST_NOTES = 3, 3
_GAP, _PAUSE = 0.04, 0.16  # seconds of silence within a group, and between two
_SOUNDS, _TEXTS, _NOISE = range(3)  # independent random streams of one example


class Group(NamedTuple):
    """So many equal notes: count in [1, 3], and keys of DURATIONS, PITCHES and KINDS."""

    count: int
    duration: str
    pitch: str
    kind: str


@dataclass(frozen=True)
class Clip:
    """The sound of some groups (see `schema.Audio`)."""

    groups: tuple[Group, ...]
    seed: tuple[int, ...]

    def __call__(self, rate: int, seconds: float) -> np.ndarray:
        """f32[n], until the last note ends."""
        rng, notes, at = np.random.default_rng(self.seed), [], 0.0
        for group in self.groups:
            hertz = PITCHES[group.pitch] * (1 + around(rng, 0.08))
            for _ in range(group.count):
                length = DURATIONS[group.duration] * (1 + around(rng, 0.1))
                level = 0.4 * (1 + around(rng, 0.3))
                notes.append(Note(KINDS[group.kind], hertz, at, length, level))
                at += length + _GAP
            at += _PAUSE - _GAP
        return synthesise(notes, rate, seconds, 0.01, rng)


@dataclass(frozen=True)
class Tones:
    """A source of clips with captions; example i is a function of (seed, split, i) alone.

    split: "train", "val" or "test". length: number of clips, None for LENGTHS[split]. groups: most
    groups of a clip, in [1, 3]. captions: how many of each, in [0, 2]. ValueError if out of range.
    """

    split: str = "train"
    length: int | None = None
    groups: int = MOST_GROUPS
    captions: int = 2
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        own = generated.within(self, groups=(1, MOST_GROUPS), captions=(0, len(LINKS)))
        generated.check(self, LENGTHS, own)

    @property
    def name(self) -> str:
        """Such as "tones/train"."""
        return f"tones/{self.split}"

    def __len__(self) -> int:
        """The number of clips."""
        return self.length or LENGTHS[self.split]

    def __getitem__(self, index: int) -> Example:
        """The example at a position. IndexError outside."""
        key = generated.key(self, LENGTHS, index)
        stream = lambda number: np.random.default_rng((*key, number))
        groups = sample(stream(_SOUNDS), self.groups)
        texts = captions(stream(_TEXTS), groups)[: self.captions]
        return {
            "id": f"{self.split}-{index}",
            "image": no_picture,
            "captions": texts,
            "questions": [],
            "audio": Clip(groups, (*key, _NOISE)),
        }


def sample(rng: np.random.Generator, most: int) -> tuple[Group, ...]:
    """One to `most` random groups, neighbours of which differ."""
    groups: list[Group] = []
    count = pick(rng, range(1, most + 1))
    while len(groups) < count:
        words: Any = (pick(rng, list(table)) for table in (DURATIONS, PITCHES, KINDS))
        group = Group(pick(rng, range(1, MOST_NOTES + 1)), *words)
        if not groups or group[1:] != groups[-1][1:]:
            groups.append(group)
    return tuple(groups)


LINKS = (" then ", " followed by ")


def captions(rng: np.random.Generator, groups: tuple[Group, ...]) -> list[str]:
    """What is heard, once with each of LINKS, in random order."""
    links = [LINKS[i] for i in rng.permutation(len(LINKS))]
    return list(dict.fromkeys(link.join(_named(group) for group in groups) for link in links))


def _named(group: Group) -> str:
    """Such as "two short high tones"."""
    count = "a" if group.count == 1 else NUMBERS[group.count]
    plural = "" if group.count == 1 else "s"
    kind = {"buzz": "buzze"}.get(group.kind, group.kind) if plural else group.kind
    return f"{count} {group.duration} {group.pitch} {kind}{plural}"
