"""What scenes of coloured shapes sound like: one note for each object, from left to right, and
within a column of the scene's grid from top to bottom.

The shape is the timbre, the colour the pitch, and a large object sounds longer and louder than a
small one. How far apart two objects are cannot be heard. Nothing lies on a disk: a
sound is computed when it is asked for.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_jax.data.notes import Note, synthesise
from vlm_jax.data.scene_graph import ATTRIBUTES, COLOURS, GRID, SHAPES, around
from vlm_jax.data.schema import DataError, Example, Source

TIMBRES = dict(zip(SHAPES, ("pure", "hollow", "soft", "bright", "bell", "reed"), strict=True))
"""Shape -> its timbre."""

PITCHES = {colour: 220.0 * 2 ** (5 * i / 12) for i, colour in enumerate(COLOURS)}
"""Colour -> Hz, in the order of the rainbow, a fourth apart: 220 to 1,661 Hz."""

SIZES = {"small": (0.14, 0.25), "large": (0.32, 0.6)}
"""Size -> seconds and amplitude of a note."""

BEAT = 0.40
"""Seconds from one note to the next."""

_DETUNE, _LATE, _LENGTH, _LEVEL = 0.02, 0.02, 0.08, 0.2
"""How far a note may be off: share of the pitch, seconds, shares of length and level."""

_NOISE = 0.01


def order(scene: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of a scene as they sound."""
    side = scene["size"]

    def when(thing: Mapping[str, Any]) -> tuple[int, float]:
        x, y = thing["centre"]
        return int(GRID * x / side), y

    return sorted(scene["objects"], key=when)


def content(scene: Mapping[str, Any]) -> str:
    """All that can be heard of a scene: "small red circle, large blue star"."""
    return ", ".join(" ".join(thing[name] for name in ATTRIBUTES) for thing in order(scene))


@dataclass(frozen=True)
class SceneSound:
    """The sound of a scene (see `schema.Audio`). seed: of its noise and small deviations."""

    scene: Mapping[str, Any]
    seed: int

    def __call__(self, rate: int, seconds: float) -> np.ndarray:
        """f32[n], until the last note ends."""
        rng = np.random.default_rng(self.seed)
        notes = [_note(rng, thing, place) for place, thing in enumerate(order(self.scene))]
        return synthesise(notes, rate, seconds, _NOISE, rng)


def _note(rng: np.random.Generator, thing: Mapping[str, Any], place: int) -> Note:
    length, level = SIZES[thing["size"]]
    return Note(
        TIMBRES[thing["shape"]],
        PITCHES[thing["colour"]] * (1 + around(rng, _DETUNE)),
        BEAT * place + _LATE * rng.random(),
        length * (1 + around(rng, _LENGTH)),
        level * (1 + around(rng, _LEVEL)),
    )


class SceneSounds:
    """Another source of scenes, whose examples have sounds, too; each a function of its example's
    id and the seed alone. DataError for an example without a scene.
    """

    def __init__(self, source: Source, seed: int = 0) -> None:
        self.name, self._source, self._seed = f"{source.name}/sounding", source, seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        if "scene" not in example:
            raise DataError(f"{self.name}, example {example['id']}: only scenes have a sound")
        seed = zlib.crc32(f"{self._seed}/{example['id']}".encode())
        scene = example["scene"]
        return {**example, "audio": SceneSound(scene, seed), "content": content(scene)}
