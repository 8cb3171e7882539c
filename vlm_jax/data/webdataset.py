"""Tar shards whose members are grouped by name, as the webdataset library and img2dataset write
them: 000.jpg and 000.txt are one example. Read in any order, by seeking.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from vlm_jax.data import fields as field_table
from vlm_jax.data import files
from vlm_jax.data.schema import DataError, Example, inside
from vlm_jax.data.tar_index import TarIndex, open_index

FIELDS = {"image": "jpg;jpeg;png;webp", "captions": "txt"}
"""Where the parts of an example lie if a config does not say it; see `vlm_jax.data.fields`."""

GAP = 1 << 16
"""Members of an example with fewer bytes than this between them are read in one go."""

OPEN = 4096
"""So many indexes stay mapped at a time."""


class WebDataset:
    """The examples of tar shards, in the order of the shards and of their members.

    shards: a pattern, or several, see `vlm_jax.data.files`. fields: parts of an example to endings
    of members. index: a folder, perhaps remote, that keeps the shards' indexes for all machines;
    the cache of this machine if None. Ids are the shard's name and the key: "train-0001/00017".

    At the start all shards are indexed that are not yet, which reads each once. In memory stay 24
    bytes per shard. DataError if there is no shard, if one is damaged, or if one has no member of
    the kinds that `fields` asks for.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        fields: Mapping[str, str] = FIELDS,
        index: str | None = None,
    ) -> None:
        self._fields = field_table.parse(fields)
        self._shards = files.find(shards)
        self._folder = index
        self._index = functools.lru_cache(OPEN)(self._open)
        counts = files.concurrently(self._checked, range(len(self._shards)))
        self._ends = np.cumsum(counts)
        root = files.common_folder([shard.path for shard in self._shards])
        self._names = [files.below(shard.path, root, ".tar") for shard in self._shards]
        self.name = f"webdataset/{self._names[0]}" + ("..." if len(counts) > 1 else "")
        if not len(self):
            raise DataError(f"{self._shards[0].path}: the shards hold no example")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        table = self._index(shard)
        position = index - int(self._ends[shard]) + len(table)
        members, key = table.members(position), table.key(position)
        contents = self._read(shard, members)
        return field_table.example(
            self._fields,
            contents.__getitem__,
            members,
            f"{self._shards[shard].path}, {key}",
            f"{self._names[shard]}/{key}",
        )

    def _open(self, shard: int) -> TarIndex:
        """The index of a shard by its number."""
        return open_index(self._shards[shard], self._folder)

    def _checked(self, shard: int) -> int:
        """The number of examples of a shard, once it is known to have the kinds asked for."""
        table = self._index(shard)
        if len(table):
            field_table.check(self._fields, table.kinds, self._shards[shard].path)
        return len(table)

    def _read(self, shard: int, members: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
        """The contents of those members that some field may ask for."""
        wanted = {}
        for places in self._fields.values():
            present = [place.column for place in places if place.column in members]
            wanted |= {column: members[column] for column in present[:1]}
        path = self._shards[shard].path
        first = min((start for start, _ in wanted.values()), default=0)
        last = max((start + size for start, size in wanted.values()), default=0)
        if last - first <= sum(size for _, size in wanted.values()) + GAP:
            whole = memoryview(files.read_range(path, first, last - first))
            return {
                kind: bytes(whole[start - first : start - first + size])
                for kind, (start, size) in wanted.items()
            }
        return {kind: files.read_range(path, *span) for kind, span in wanted.items()}
