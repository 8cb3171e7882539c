"""A data set whose examples bring along what a memory knows about pictures like theirs.

The neighbours are found once, by picture, and kept in the cache folder under a key made of the
memory, the data set and the encoder; training then reads no vector. An example's own entries, and
those of any other example with its id, are never among them, unless that is asked for.
"""

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vlm_jax import kwargs
from vlm_jax.data.cache import cache_folder
from vlm_jax.data.features import fingerprint, identity
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.memory.build import build
from vlm_jax.memory.encoders import PIXELS, Encoder, Pixels, make_encoder
from vlm_jax.memory.exact import Exact
from vlm_jax.memory.store import Memory, npy_bytes
from vlm_jax.workdir import atomic_write_bytes

NAME = "retrieved"
"""The name of such a source in a config."""

BATCH = 256
"""Queries at a time."""


class Retrieved:
    """The examples of `source` with one more key, `retrieved`: up to k texts of the nearest entries
    of the memory, nearest first, the first text of each.

    own: whether entries with the example's own id may be among them, which only makes sense where
    nothing is learned. keep: whether what was found is kept in the cache folder, for data that can
    be told from other data by ids and texts. Examples whose picture cannot be read have none.
    BadMemory if the encoder is not the one that made the memory.
    """

    def __init__(
        self,
        source: Source,
        memory: Memory,
        encoder: Encoder,
        k: int = 4,
        *,
        own: bool = False,
        keep: bool = True,
        metric: str = "cosine",
    ) -> None:
        if k < 0:
            raise ValueError(f"k={k} neighbours: it is 0 or more")
        self.name, self.k, self.memory = f"{source.name}+{memory.folder.name}", k, memory
        self._source, self._own = source, own
        self._rows = np.zeros((len(source), 0), np.int64)
        if k:
            memory.require(encoder.fingerprint, encoder.name)
            wanted = k if own else k + memory.most_per_id
            count = min(wanted, len(memory))
            ask = lambda: _found(source, encoder, Exact(memory, metric=metric), count)
            made = dict(memory=memory.digest, encoder=encoder.fingerprint, count=count, by=metric)
            self._rows = _kept(made, source, ask) if keep else ask()

    def __len__(self) -> int:
        return len(self._source)

    @property
    def pictures(self) -> "Retrieved":
        """The same without features that encoders made of the pictures beforehand."""
        bare = copy.copy(self)
        bare._source = getattr(self._source, "pictures", self._source)
        return bare

    def __getitem__(self, index: int) -> Example:
        example: Any = self._source[index]
        found: Any = {**example, "retrieved": self._texts(example["id"], self._rows[index])}
        return found

    def neighbours(self, index: int) -> list[int]:
        """Rows of the memory behind the texts of an example, nearest first."""
        key = self._source[index]["id"]
        return [row for row in self._rows[index].tolist() if self._may(key, row)][: self.k]

    def _texts(self, key: str, rows: np.ndarray) -> list[str]:
        found: list[str] = []
        for row in rows.tolist():
            if len(found) == self.k:
                break
            if self._may(key, row):
                found += self.memory.entry(row)["texts"][:1]
        return found

    def _may(self, key: str, row: int) -> bool:
        return row >= 0 and (self._own or self.memory.entry(row)["id"] != key)


def retrieved(
    source: Source,
    memory: str | Mapping[str, Any],
    k: int = 4,
    own: bool = False,
) -> Retrieved:
    """A source with the neighbours of its pictures, see `Retrieved`.

    memory: the folder of a finished one, whose encoder embeds the queries too; or what to build one
    of, {"source": config of a data set, "encoder": a name for `make_encoder`, "of": "image" or
    "text"}, which is then kept in the cache folder.
    """
    return Retrieved(source, *with_encoder(memory, embed=k > 0), k, own=own)


def with_encoder(memory: str | Mapping[str, Any], *, embed: bool = True) -> tuple[Memory, Encoder]:
    """The memory of a config, and what embeds queries for it; see `retrieved`. embed: False where
    nothing will be asked, so that no run is loaded.
    """
    if isinstance(memory, Mapping):
        return _made(dict(memory))
    opened = Memory(memory)
    return opened, make_encoder(opened.about["encoder"]) if embed else Pixels()


def of_other(data: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The config of another source, with neighbours if `data` has some."""
    if data["name"] != NAME:
        return dict(source)
    return {**data, "source": dict(source), "own": False}


def with_memory(
    data: Mapping[str, Any],
    memory: str | None = None,
    k: int | None = None,
    own: bool | None = None,
) -> dict[str, Any]:
    """A source's config with another memory, or another number of neighbours, or as it is. own: see
    `Retrieved`; None leaves it.

    ValueError if k is given for a source without a memory.
    """
    if memory is None and k is None:
        return dict(data)
    if data["name"] != NAME and memory is None:
        raise ValueError(f"--k={k} counts neighbours, but this run has no memory: give --memory")
    found = {"source": dict(data)} if data["name"] != NAME else dict(data)
    found |= {"name": NAME} | ({} if memory is None else {"memory": memory})
    found |= {} if k is None else {"k": k}
    return found | ({} if own is None else {"own": own})


def _made(given: dict[str, Any]) -> tuple[Memory, Encoder]:
    """The memory that a config describes, built where it is missing, and its encoder."""
    from vlm_jax.data.sources import make_source  # late: it knows this module, too

    valid = ("source", "encoder", "of")
    kwargs.check_keys(given, valid, "source.memory")
    if "source" not in given:
        raise TypeError("source.memory lacks the required key 'source'")
    encoder, data = make_encoder(given.get("encoder", PIXELS)), plain(given["source"])
    of = given.get("of", "image")
    source = make_source(data)
    made = {"encoder": encoder.fingerprint, "of": of, "data": data}
    folder = cache_folder() / "memories" / fingerprint(made, [fingerprint_of(source)])
    return build(encoder, source, folder, data=data, of=of), encoder


def plain(config: Any) -> Any:
    """A config as JSON gives it back."""
    return json.loads(json.dumps(config, default=lambda value: dict(value)))


def fingerprint_of(source: Source) -> str:
    """What tells a data set from another: its name, its length, and a few of its examples."""
    some = range(0, len(source), max(1, len(source) // 16))
    rows = [(source[i]["id"], source[i]["captions"], identity(source[i]["image"])) for i in some]
    return fingerprint({"name": source.name, "length": len(source)}, rows)


def _kept(made: Mapping[str, Any], source: Source, find: Callable[[], np.ndarray]) -> np.ndarray:
    """What `find` returns, from the cache folder if it was found before for the same source, made
    in the same way.
    """
    key = fingerprint(made, [fingerprint_of(source)])
    path = cache_folder() / "neighbours" / f"{key}.npy"
    if path.exists():
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError):
            path.unlink(missing_ok=True)  # damaged: it is found anew
    if jax.process_count() > 1:
        raise RuntimeError(
            "the neighbours of this data are not there yet, and one process alone finds them: run "
            f"the same command on one host first, then copy {path}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = find()
    atomic_write_bytes(path, npy_bytes(rows))
    return rows


def _found(source: Source, encoder: Encoder, search: Exact, count: int) -> np.ndarray:
    """i64[examples, count]: the nearest rows, -1 for an unreadable picture."""
    rows = np.full((len(source), count), -1, np.int64)
    embedded = encoder.images(source)
    while part := list(itertools.islice(embedded, BATCH)):
        positions, vectors = zip(*part, strict=True)
        rows[list(positions)] = search(np.stack(vectors), count).rows
    if (rows < 0).all():
        raise DataError(f"{source.name}: no picture can be read, so nothing was retrieved for it")
    return rows
