"""What lies where in a tar shard: found by one pass over its headers, kept in a small file, then
mapped into memory instead of loaded.

The index of a shard is looked for beside it (SHARD.index), then in the cache; if it is in neither,
or belongs to an earlier version of the shard, it is made and kept in the cache.
"""

import json
import re
import tarfile
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from vlm_jax.data import files
from vlm_jax.data.cache import cache_folder
from vlm_jax.data.files import File
from vlm_jax.data.schema import DataError

SUFFIX = ".index"
"""Appended to a shard's name for the index that lies beside it."""

MAX_MEMBERS = 4_000_000
"""Files in one shard; more of them are refused, because its index would fill the memory."""

MAX_KINDS = 256
"""Different endings in one shard."""

MAX_NAME, MAX_HEADER = 1024, 1 << 20  # bytes

_MAGIC = b"vlm_jax tar index 1\n"
_BLOCK = tarfile.BLOCKSIZE
_TYPES = {"starts": "<i8", "kinds": "<u2", "spans": "<i8", "ends": "<i8", "keys": "u1"}


@dataclass(frozen=True)
class TarIndex:
    """The examples of a shard: N of them, with M members in all.

    kinds: the endings that occur, such as "jpg". starts: i64[N + 1], the first member of each
    example. kind: u16[M], positions in `kinds`. spans: i64[M, 2], first byte and number of bytes of
    each member. ends: i64[N], where each example's key ends in `keys`, u8[...], UTF-8.
    """

    kinds: tuple[str, ...]
    starts: np.ndarray
    kind: np.ndarray
    spans: np.ndarray
    ends: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def key(self, position: int) -> str:
        """What the members of an example have in common: their path up to the first dot."""
        first = int(self.ends[position - 1]) if position else 0
        return bytes(self.keys[first : int(self.ends[position])]).decode("utf-8", "replace")

    def members(self, position: int) -> dict[str, tuple[int, int]]:
        """Kind to (first byte, number of bytes) of each member of an example."""
        rows = slice(int(self.starts[position]), int(self.starts[position + 1]))
        spans = self.spans[rows].tolist()
        return {
            self.kinds[kind]: (first, size)
            for kind, (first, size) in zip(self.kind[rows].tolist(), spans, strict=True)
        }


def open_index(shard: File, folder: str | None = None) -> TarIndex:
    """The index of a shard, made if there is no current one.

    folder: where indexes are kept instead of the cache; may be remote. DataError for a shard that
    is no sound tar.
    """
    name = f"{shard.path.rsplit('/', 1)[-1]}-{shard.fingerprint}{SUFFIX}"
    local = cache_folder() / "indexes" / name
    kept = f"{folder.rstrip('/')}/{name}" if folder else None
    if not local.exists():
        content = _current(shard, shard.path + SUFFIX) or (kept and _current(shard, kept))
        if not content:
            content = encode(scan_shard(shard), shard)
            if kept:
                files.write(kept, content)
        files.write(str(local), content)
    try:
        index, stamp = _mapped(local)
        if stamp == shard.stamp:
            return index
        index = index if _fits(index, shard) else scan_shard(shard)
    except (ValueError, OSError, KeyError, TypeError):  # a damaged file of the cache
        index = scan_shard(shard)
    files.write(str(local), encode(index, shard))
    return _mapped(local)[0]


def write_beside(shard: File) -> int:
    """Writes the index of a shard beside it, for all that will read it; the number of examples."""
    index = scan_shard(shard)
    files.write(shard.path + SUFFIX, encode(index, shard))
    return len(index)


def scan_shard(shard: File) -> TarIndex:
    """`scan` of a shard; OSError where it cannot be read."""
    with files.open_file(shard.path) as file:
        return scan(file, shard.path, shard.size)


def scan(file: BinaryIO, where: str, size: int) -> TarIndex:
    """The index of an open tar of `size` bytes; the contents of its files are not read.

    Members are grouped by key, wherever they stand. Folders, links, hidden files and those without
    an ending are left out. DataError, with what to do, for an archive that is compressed, cut off,
    damaged, two in one, or that asks for more memory than a data set does.
    """
    if file.read(2) == b"\x1f\x8b":
        raise DataError(f"{where} is compressed; run gunzip on it: a shard is read in any order")
    file.seek(0)
    found, bounded = _Members(where), _Bounded(file, where)
    try:
        with tarfile.open(fileobj=cast(Any, bounded), mode="r:") as archive:
            while (member := archive.next()) is not None:
                vars(archive)["members"] = []  # which would otherwise hold every header
                found.add(member)
            end = archive.offset
    except DataError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(found.cut(str(error))) from None
    _check_end(file, end, size, found)
    return _index(found)


class _Members:
    """The members met so far. numbers: key to example. kinds: ending to its number. rows: example,
    kind, first byte and bytes of each.
    """

    def __init__(self, where: str) -> None:
        self.where, self.count, self.last = where, 0, "none"
        self.numbers: dict[str, int] = {}
        self.kinds: dict[str, int] = {}
        self.rows = [array("q") for _ in range(4)]

    def add(self, member: tarfile.TarInfo) -> None:
        """Takes one more member. DataError if it asks for too much."""
        self.count, self.last = self.count + 1, member.name
        if self.count > MAX_MEMBERS:
            raise DataError(f"{self.where}: over {MAX_MEMBERS:,} files; make smaller shards")
        split = _split(member, self.where)
        if split is None:
            return
        number = self.numbers.setdefault(split[0], len(self.numbers))
        kind = self.kinds.setdefault(split[1], len(self.kinds))
        if len(self.kinds) > MAX_KINDS:
            raise DataError(
                f"{self.where}: over {MAX_KINDS} different endings, such as .{split[1]}: names are "
                "split at their first dot; rename files that have dots in their keys"
            )
        row = (number, kind, member.offset_data, member.size)
        for column, value in zip(self.rows, row, strict=True):
            column.append(value)

    def cut(self, what: str) -> str:
        """What an error says about a damaged archive."""
        return (
            f"{self.where} is cut off or damaged: {what}, after {self.count:,} files, the last of "
            f"them {self.last}; copy it again, or leave it out of the pattern"
        )


def encode(index: TarIndex, shard: File) -> bytes:
    """The bytes of an index file: a line of JSON, then the arrays one after the other."""
    arrays = {
        "starts": index.starts,
        "kinds": index.kind,
        "spans": index.spans.reshape(-1),
        "ends": index.ends,
        "keys": index.keys,
    }
    head = {
        "shard": shard.path.rsplit("/", 1)[-1],
        "size": shard.size,
        "stamp": shard.stamp,
        "kinds": index.kinds,
        "lengths": {name: len(values) for name, values in arrays.items()},
    }
    line = _MAGIC + json.dumps(head).encode("utf-8")
    line += b" " * (-(len(line) + 1) % 8) + b"\n"  # so that the numbers lie at multiples of 8
    ordered = sorted(arrays, key=_order)
    return line + b"".join(arrays[name].astype(_TYPES[name]).tobytes() for name in ordered)


def _order(name: str) -> tuple[int, str]:
    """Arrays lie in the file by falling size of their numbers."""
    return -np.dtype(_TYPES[name]).itemsize, name


def _current(shard: File, path: str) -> bytes | None:
    """The content of an index file, if there is one for a shard of this size."""
    content = files.read_all(path)
    if content is None:
        return None
    try:
        head = _head(content[: len(_MAGIC) + (1 << 20)])[0]
        return content if head["size"] == shard.size else None
    except (ValueError, KeyError):
        return None


def _head(content: bytes) -> tuple[Mapping[str, Any], int]:
    """The JSON line of an index file, and where the arrays begin. ValueError if it is none."""
    if not content.startswith(_MAGIC):
        raise ValueError("no index file")
    end = content.index(b"\n", len(_MAGIC))
    return json.loads(content[len(_MAGIC) : end]), end + 1


def _fits(index: TarIndex, shard: File) -> bool:
    """Whether the first, the middle and the last member lie where an index says, with their size.

    Copied shards have other times than when they were indexed, and so have rewritten ones.
    """
    for first, size in index.spans[[0, len(index.spans) // 2, -1]] if len(index.spans) else ():
        block = files.read_range(shard.path, int(first) - _BLOCK, _BLOCK)
        try:
            if tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size != size:
                return False
        except tarfile.TarError:
            return False
    return True


def _mapped(path: Path) -> tuple[TarIndex, str]:
    """The index of a file on disk, where its arrays stay, and the stamp of its shard. ValueError if
    it is damaged.
    """
    with open(path, "rb") as file:
        head, start = _head(file.read(len(_MAGIC) + (1 << 20)))
    arrays: dict[str, np.ndarray] = {}
    whole = np.memmap(path, np.uint8, "r").view(np.ndarray)  # a plain view is quicker to index
    for name in sorted(_TYPES, key=_order):
        kind = np.dtype(_TYPES[name])
        stop = start + kind.itemsize * int(head["lengths"][name])
        if stop > len(whole):
            raise ValueError(f"{path} is cut off")
        arrays[name], start = whole[start:stop].view(kind), stop
    spans = arrays["spans"].reshape(-1, 2)
    index = TarIndex(
        *(tuple(head["kinds"]), arrays["starts"], arrays["kinds"], spans),
        *(arrays["ends"], arrays["keys"]),
    )
    return index, head["stamp"]


class _Bounded:
    """A file for tarfile that refuses to read a header larger than any honest one."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """At most `size` bytes; DataError if that is above MAX_HEADER."""
        if not 0 <= size <= MAX_HEADER:
            raise DataError(f"{self._where}: a header of {size:,} bytes; this is no honest tar")
        return self._file.read(size)


def _split(member: tarfile.TarInfo, where: str) -> tuple[str, str] | None:
    """Key and kind of a member, "a/b.seg.png" as "a/b" and "seg.png"; None for what is no data."""
    if member.issparse():
        raise DataError(f"{where}: {member.name} is stored sparsely; make the tar without --sparse")
    folder, _, name = member.name.removeprefix("./").rpartition("/")
    if not member.isreg() or name.startswith(".") or re.fullmatch(r"__.*__", folder):
        return None
    stem, dot, kind = name.partition(".")
    if len(member.name.encode("utf-8", "replace")) > MAX_NAME:
        raise DataError(f"{where}: a name of over {MAX_NAME} bytes, {member.name[:40]!r}...")
    return (f"{folder}/{stem}" if folder else stem, kind.lower()) if dot and kind else None


def _check_end(file: BinaryIO, end: int, size: int, found: _Members) -> None:
    """DataError unless the archive ends where its headers do, with the mark of zeros."""
    file.seek(end)
    mark = file.read(_BLOCK)
    if len(mark) < _BLOCK or any(mark):
        what = "no end mark" if len(mark) < _BLOCK else "a damaged header"
        raise DataError(found.cut(f"{what} at byte {end:,} of {size:,}"))
    rest = file.read(MAX_HEADER) if size - end - _BLOCK <= MAX_HEADER else b"\1"
    if any(rest):
        raise DataError(
            f"{found.where}: {size - end - _BLOCK:,} bytes follow the end mark: archives were "
            "joined with cat; unpack it with tar --ignore-zeros and pack it anew"
        )


def _index(found: _Members) -> TarIndex:
    """The members, sorted by example."""
    example, kind, first, size = (np.frombuffer(row, np.int64) for row in found.rows)
    keys, kinds = list(found.numbers), tuple(found.kinds)
    order = np.lexsort((kind, example))
    example, kind = example[order], kind[order]
    twice = np.flatnonzero((example[1:] == example[:-1]) & (kind[1:] == kind[:-1]))
    if len(twice):
        name = f"{keys[example[twice[0]]]}.{kinds[kind[twice[0]]]}"
        raise DataError(f"{found.where} holds {name} twice; keys must differ within a shard")
    encoded = [key.encode("utf-8", "replace") for key in keys]
    return TarIndex(
        kinds=kinds,
        starts=np.searchsorted(example, np.arange(len(keys) + 1)),
        kind=kind.astype(np.uint16),
        spans=np.stack([first[order], size[order]], axis=1),
        ends=np.cumsum([len(key) for key in encoded], dtype=np.int64),
        keys=np.frombuffer(b"".join(encoded), np.uint8),
    )
