"""A memory on disk: vectors with the id and the texts behind each, as plain array files.

    folder/
      memory.json              who made it and of what; written last, so a folder without it is a
                               build that was stopped, which goes on where it stopped
      vectors-00000.npy        f32[rows, width], to be memory-mapped
      entries-00000.jsonl      one Entry per row
      offsets-00000.npy        i64[rows + 1], where each line of the entries begins

Shards are written whole or not at all.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.workdir import atomic_write_bytes, atomic_write_text

FORMAT = 1
MANIFEST, BUILDING = "memory.json", "building.json"


class BadMemory(ValueError):
    """A memory that cannot be used: absent, unfinished, damaged, empty or made by another model.

    The message names the file and says what to do.
    """


class Entry(TypedDict):
    """What stands behind a row. id: of the example it came from; several rows may share one.

    texts: what is said about it, possibly nothing. position: of the example in its source. image,
    audio: the paths of its picture and its sound, where it has some.
    """

    id: str
    texts: list[str]
    position: NotRequired[int]
    image: NotRequired[str]
    audio: NotRequired[str]


class Memory:
    """A finished memory, opened for reading. Vectors are mapped, not read.

    about: what the builder wrote down: "fingerprint" of the model that embedded it, "encoder",
    "data" and "of". Raises BadMemory if it is absent, unfinished, truncated or empty.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        manifest = _manifest(self.folder)
        self.about: Mapping[str, Any] = manifest["about"]
        self.fingerprint: str = self.about["fingerprint"]
        self.width, self.most_per_id = int(manifest["width"]), int(manifest["most_per_id"])
        self.digest: str = manifest["digest"]
        counts = [int(count) for count in manifest["shards"]]
        self.starts = np.cumsum([0, *counts])  # of each shard, and the number of rows
        if not self.starts[-1]:
            raise BadMemory(f"{self.folder} is an empty memory: build it from data with examples")
        self.shards = [self._shard(number, rows) for number, rows in enumerate(counts)]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def require(self, fingerprint: str, who: str) -> None:
        """BadMemory unless the vectors come from the model with this fingerprint. who: names it."""
        if fingerprint != self.fingerprint:
            raise BadMemory(
                f"{self.folder} was built by another model than {who} (its fingerprint is "
                f"{self.fingerprint}, not {fingerprint}), so their vectors cannot be compared: "
                "build it again with --mode=index, or search with the model that made it"
            )

    def vectors(self, start: int, stop: int) -> Float[np.ndarray, "rows width"]:
        """The rows start:stop, 0 <= start <= stop <= len; a view of the file within one shard."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        if first < len(self.shards) and stop <= self.starts[first + 1]:
            return self.shards[first][start - self.starts[first] : stop - self.starts[first]]
        parts = []
        for begin, shard in zip(self.starts, self.shards, strict=False):
            part = shard[max(start - begin, 0) : max(stop - begin, 0)]
            parts += [part] if len(part) else []
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    def take(self, rows: Int[np.ndarray, "*any"]) -> Float[np.ndarray, "*any width"]:
        """The vectors of chosen rows, each in [0, len)."""
        found = np.empty((rows.size, self.width), np.float32)
        flat = rows.reshape(-1)
        which = np.searchsorted(self.starts, flat, side="right") - 1
        for number in np.unique(which):
            here = which == number
            found[here] = self.shards[number][flat[here] - self.starts[number]]
        return found.reshape(*rows.shape, self.width)

    def entry(self, row: int) -> Entry:
        """What stands behind a row in [0, len)."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        offsets, lines = self._lines[number]
        begin, end = offsets[row - self.starts[number]], offsets[row - self.starts[number] + 1]
        return json.loads(lines[begin:end].tobytes())

    @cached_property
    def _lines(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Offsets and bytes of the entries of every shard, mapped: threads may read at once."""
        numbers = range(len(self.shards))
        read = lambda i: np.memmap(self._path("entries", i), np.uint8, mode="r")
        return [(self._array("offsets", i), read(i)) for i in numbers]

    def _path(self, kind: str, number: int) -> Path:
        return shard_path(self.folder, kind, number)

    def _array(self, kind: str, number: int) -> np.ndarray:
        path = self._path(kind, number)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadMemory(f"{path} is damaged or truncated ({error}): {_AGAIN}") from error

    def _shard(self, number: int, rows: int) -> np.ndarray:
        """The vectors of one shard, once its three files are known to fit each other."""
        vectors, offsets = self._array("vectors", number), self._array("offsets", number)
        if vectors.shape != (rows, self.width) or vectors.dtype != np.float32:
            raise BadMemory(
                f"{self._path('vectors', number)} holds {vectors.dtype} {list(vectors.shape)} and "
                f"not float32 {[rows, self.width]}: {_AGAIN}"
            )
        entries = self._path("entries", number)
        size = entries.stat().st_size if entries.exists() else 0
        if offsets.shape != (rows + 1,) or (rows and offsets[-1] != size):
            raise BadMemory(f"{entries} is damaged or truncated: {_AGAIN}")
        return vectors


_AGAIN = "delete the folder and build it again with --mode=index"


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """The file of a shard. kind: "vectors", "offsets" or "entries"."""
    return folder / f"{kind}-{number:05d}.{'jsonl' if kind == 'entries' else 'npy'}"


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        unfinished = (folder / BUILDING).exists()
        raise BadMemory(
            f"{folder} is a memory whose building was stopped: run --mode=index again, it goes on"
            if unfinished
            else f"{folder} is no memory, it has no {MANIFEST}: build one with --mode=index"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise BadMemory(f"{path} has format {manifest['format']}, not {FORMAT}: {_AGAIN}")
        return manifest
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, BadMemory):
            raise
        raise BadMemory(f"{path} cannot be read ({error!r}): {_AGAIN}") from error


class Writer:
    """Writes a memory shard by shard; what an earlier, stopped build of the same wrote is kept.

    about: as for Memory; JSON. With other contents than those of a stopped build, or over a
    finished memory made of something else, it raises BadMemory. done: shards that are there.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = Path(folder).expanduser(), json.loads(json.dumps(dict(about)))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, BUILDING):
            path = self.folder / name
            if path.exists() and json.loads(path.read_text(encoding="utf-8"))["about"] != about:
                raise BadMemory(
                    f"{self.folder} holds a memory of another model or of other data: delete it, "
                    "or give another folder with --memory"
                )
        atomic_write_text(self.folder / BUILDING, json.dumps({"about": self.about}))
        self.done = 0
        while shard_path(self.folder, "vectors", self.done).exists():
            self.done += 1

    def write(self, vectors: Float[np.ndarray, "rows width"], entries: Sequence[Entry]) -> None:
        """Appends a shard. ValueError if the counts differ; BadMemory, naming an id, for a vector
        that is not finite.
        """
        if len(vectors) != len(entries):
            raise ValueError(f"{len(vectors)} vectors and {len(entries)} entries: one for each")
        vectors = np.ascontiguousarray(vectors, np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise BadMemory(
                f"{len(bad)} embeddings are not finite, the first that of example "
                f"{entries[bad[0]]['id']!r}: the model has diverged, or its input is broken"
            )
        lines = [(json.dumps(entry, ensure_ascii=False) + "\n").encode() for entry in entries]
        offsets = np.cumsum([0, *map(len, lines)], dtype=np.int64)
        atomic_write_bytes(shard_path(self.folder, "entries", self.done), b"".join(lines))
        atomic_write_bytes(shard_path(self.folder, "offsets", self.done), npy_bytes(offsets))
        # The vectors come last: where they are, the shard is whole.
        atomic_write_bytes(shard_path(self.folder, "vectors", self.done), npy_bytes(vectors))
        self.done += 1

    def finish(self) -> Memory:
        """Makes the folder a memory. BadMemory if nothing was written."""
        numbers = range(self.done)
        shapes = [np.load(self._path(i), mmap_mode="r", allow_pickle=False).shape for i in numbers]
        if not sum(rows for rows, _ in shapes):
            raise BadMemory(f"{self.folder}: there is nothing to remember, no example was embedded")
        most, digest = _count_ids(self.folder, self.done)
        manifest = {"format": FORMAT, "about": self.about, "width": shapes[0][1]}
        manifest |= {"shards": [rows for rows, _ in shapes], "most_per_id": most, "digest": digest}
        atomic_write_text(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        (self.folder / BUILDING).unlink(missing_ok=True)
        return Memory(self.folder)

    def _path(self, number: int) -> Path:
        return shard_path(self.folder, "vectors", number)


def write(
    folder: str | Path,
    about: Mapping[str, Any],
    vectors: Float[np.ndarray, "rows width"],
    entries: Sequence[Entry],
    shard: int = 65_536,
) -> Memory:
    """A memory of vectors that are at hand, in shards of so many rows. Errors as Writer's."""
    writer = Writer(folder, about)
    for start in range(writer.done * shard, len(vectors), shard):
        writer.write(vectors[start : start + shard], entries[start : start + shard])
    return writer.finish()


def npy_bytes(array: np.ndarray) -> bytes:
    """The contents of the .npy file of an array."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _count_ids(folder: Path, shards: int) -> tuple[int, str]:
    """The most rows that one id has, and a checksum of all entries and vectors."""
    counts: Counter[str] = Counter()
    digest = hashlib.blake2b(digest_size=16)
    for number in range(shards):
        for line in _lines_of(shard_path(folder, "entries", number)):
            counts[json.loads(line)["id"]] += 1
            digest.update(line)
        vectors = np.load(shard_path(folder, "vectors", number), mmap_mode="r", allow_pickle=False)
        for start in range(0, len(vectors), 65_536):
            digest.update(vectors[start : start + 65_536].tobytes())
    return max(counts.values()), digest.hexdigest()


def _lines_of(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        yield from file
