"""A memory out of a data set and an encoder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

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

    of: "image", one row per example, its picture's vector, with all of its captions; or "text", one
    row per distinct caption of an example. data: the config of the source, to find pictures again.
    BadMemory if the folder holds another memory, or if there is nothing to remember.
    """
    if of not in ("image", "text"):
        raise ValueError(f'of={of!r}: choose "image" or "text"')
    about = {"fingerprint": encoder.fingerprint, "encoder": encoder.name, "of": of}
    about |= {"data": dict(data), "examples": len(source), "shard": shard}
    writer = Writer(folder, about)
    if (writer.folder / MANIFEST).exists():
        return Memory(writer.folder)
    for start in range(writer.done * shard, len(source), shard):
        part = range(start, min(start + shard, len(source)))
        rows = _pictures if of == "image" else _texts
        found = list(rows(encoder, source, part))
        if not found:
            raise BadMemory(
                f"nothing of the examples {part[0]} to {part[-1]} of {source.name} can be "
                f"remembered: none has a {'picture that can be read' if of == 'image' else 'text'}"
            )
        writer.write(np.stack([vector for vector, _ in found]), [entry for _, entry in found])
    return writer.finish()


def _pictures(encoder: Encoder, source: Source, part: range) -> Iterator[tuple[np.ndarray, Entry]]:
    for position, vector in encoder.images(Subset(source, part)):
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
    return entry
