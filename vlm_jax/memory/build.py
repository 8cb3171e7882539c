"""A memory out of a data set and an encoder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.data.audio import AudioFile
from vlm_jax.data.schema import Example, Source
from vlm_jax.data.sources import Subset
from vlm_jax.memory.encoders import Encoder
from vlm_jax.memory.store import MANIFEST, BadMemory, Entry, Memory, Writer

SHARD = 4096
"""Examples of a shard: what a build that is stopped has to do again, at most."""


def build(
    encoder: Encoder,
    source: Source,
    folder: str | Path,
    *,
    data: Mapping[str, Any],
    of: str = "image",
    shard: int = SHARD,
) -> Memory:
    """A memory of a source in `folder`; one that is there already is only opened, one that was
    stopped goes on.

    of: "image" or "audio", one row per example, the vector of its picture or its sound, with all of
    its captions; or "text", one row per distinct caption of an example. data: the config of the
    source, to find pictures again. BadMemory if the folder holds another memory, or if there is
    nothing to remember.
    """
    if of not in ROWS:
        raise ValueError(f'of={of!r}: choose "image" or "text", or "audio"')
    about = {"fingerprint": encoder.fingerprint, "encoder": encoder.name, "of": of}
    about |= {"data": dict(data), "examples": len(source), "shard": shard}
    writer = Writer(folder, about)
    if (writer.folder / MANIFEST).exists():
        return Memory(writer.folder)
    for start in range(writer.done * shard, len(source), shard):
        part = range(start, min(start + shard, len(source)))
        rows, lacking = ROWS[of]
        found = list(rows(encoder, source, part))
        if not found:
            raise BadMemory(
                f"nothing of the examples {part[0]} to {part[-1]} of {source.name} can be "
                f"remembered: none has a {lacking}"
            )
        writer.write(np.stack([vector for vector, _ in found]), [entry for _, entry in found])
    return writer.finish()


def _pictures(encoder: Encoder, source: Source, part: range) -> Iterator[tuple[np.ndarray, Entry]]:
    for position, vector in encoder.images(Subset(source, part)):
        example = source[part[position]]
        yield vector, _entry(example, part[position], list(example["captions"]))


def _sounds(encoder: Encoder, source: Source, part: range) -> Iterator[tuple[np.ndarray, Entry]]:
    for position, vector in encoder.sounds(Subset(source, part)):
        example = source[part[position]]
        yield vector, _entry(example, part[position], list(example["captions"]))


def _texts(encoder: Encoder, source: Source, part: range) -> Iterator[tuple[np.ndarray, Entry]]:
    entries = []
    for position in part:
        example = source[position]
        entries += [_entry(example, position, [t]) for t in dict.fromkeys(example["captions"])]
    if entries:
        yield from zip(encoder.texts([e["texts"][0] for e in entries]), entries, strict=True)


def _entry(example: Example, position: int, texts: list[str]) -> Entry:
    entry: Entry = {"id": example["id"], "texts": texts, "position": position}
    if isinstance(example["image"], str | Path):
        entry["image"] = str(example["image"])
    sound = example.get("audio")
    if isinstance(sound, AudioFile) and not isinstance(sound.path, bytes):
        entry["audio"] = sound.path
    return entry


ROWS = {
    "image": (_pictures, "picture that can be read"),
    "audio": (_sounds, "sound that can be read"),
    "text": (_texts, "text"),
}
"""What a memory may be of: its rows, and what an example needs for one."""
