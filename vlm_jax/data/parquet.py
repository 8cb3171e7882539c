"""Parquet shards with pictures in a column, as the Hugging Face hub and img2dataset hand them out.

What is quick to read from parquet is a row group, not a row. So the order of training shuffles row
groups, and examples within a window of them: `Parquet.order`.
"""

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_jax.data import fields as field_table
from vlm_jax.data import files, order
from vlm_jax.data.files import File
from vlm_jax.data.schema import DataError, Example, inside

FIELDS = {"image": "image", "captions": "caption;captions;text"}
"""Where the parts of an example lie if a config does not say it; see `vlm_jax.data.fields`."""

INSTALL = "pip install pyarrow"

FOOTERS = 256
"""The descriptions of so many files stay in memory."""


@dataclass(frozen=True)
class _Shard:
    """What stays in memory of a file. rows: i64[G], those of each of its row groups. types: column
    in use to its type. label_names: column to the names of its numbers.
    """

    file: File
    rows: np.ndarray
    types: Mapping[str, str]
    label_names: Mapping[str, Sequence[str]]


class Parquet:
    """The rows of parquet files, in the order of the files.

    shards: a pattern, or several, see `vlm_jax.data.files`. fields: parts of an example to columns;
    a picture is bytes, or a struct {"bytes", "path"}, or a path relative to the shard. window: row
    groups whose examples are shuffled among each other in training; large batches and row groups
    need few, small ones many. cache: megabytes of row groups kept in memory, of which some two
    windows should fit; the last one read stays in any case. Ids, where `fields` has none, are the
    shard's name and the row: "train-00000/17". A label column of numbers with names that the
    Hugging Face header knows becomes those names.

    DataError if pyarrow is missing (with what to install), if there is no shard, if one is damaged,
    has none of the columns asked for or has them in another type than the first shard.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        fields: Mapping[str, str] = FIELDS,
        window: int = 16,
        cache: int = 1024,
    ) -> None:
        if window < 1 or cache < 1:
            raise ValueError(f"window={window}, cache={cache}: both must be at least 1")
        self._fields = field_table.parse(fields)
        found = files.find(shards)
        read = files.concurrently(functools.partial(_shard, fields=self._fields), found)
        self._shards = [shard for shard in read if shard.rows.sum()]
        if not self._shards:
            raise DataError(f"{found[0].path}: the shards hold no row")
        _check_types(self._shards)
        self._groups = [
            (s, g) for s, shard in enumerate(self._shards) for g in range(len(shard.rows))
        ]
        self._rows = np.concatenate([shard.rows for shard in self._shards])
        self._ends = np.cumsum(self._rows)
        self._row_in_shard = np.concatenate([np.cumsum(s.rows) - s.rows for s in self._shards])
        self._window, self._kept = window, _Kept(cache << 20)
        self._footer = functools.lru_cache(FOOTERS)(self._read_footer)
        root = files.common_folder([file.path for file in found])
        self._names = [files.below(shard.file.path, root, ".parquet") for shard in self._shards]
        self.name = f"parquet/{self._names[0]}" + ("..." if len(found) > 1 else "")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        group = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[group] - self._rows[group])
        table = self._kept.get(group, lambda: self._load(group))
        which = self._groups[group][0]
        shard, number = self._shards[which], int(self._row_in_shard[group]) + row
        path = shard.file.path

        def get(column: str) -> Any:
            value = table.column(column)[row].as_py()  # KeyError for a column that is not there
            names = shard.label_names.get(column)
            return names[value] if names and isinstance(value, int) and value >= 0 else value

        return field_table.example(
            self._fields,
            get,
            table.column_names,
            f"{path}, row {number}",
            f"{self._names[which]}/{number}",
            "" if files.is_remote(path) else path.rpartition("/")[0],
        )

    def order(self, seed: int) -> order.Order:
        """The order of training, see `vlm_jax.data.order`: row groups, then examples in a window of
        them.
        """
        return order.by_blocks(self._rows, self._window, seed)

    def _load(self, group: int) -> Any:
        """The columns in use of a row group, as a pyarrow Table."""
        shard, number = self._groups[group]
        file = self._shards[shard].file
        columns = list(self._shards[shard].types)
        with _opened(file, self._footer(shard)) as opened, _named(file):
            return opened.read_row_group(number, columns=columns, use_threads=False)

    def _read_footer(self, shard: int) -> Any:
        """What a file says about its row groups, to be kept for those read most."""
        with _opened(self._shards[shard].file) as opened:
            return opened.metadata


class _Kept:
    """The row groups read last, up to so many bytes; each is read by one thread only."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._lock, self._reading = threading.Lock(), {}

    def get(self, key: int, load: Callable[[], Any]) -> Any:
        """What `load` returns, from memory if it is still there."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._lock:
                if key in self._tables:
                    return self._tables[key]
            table = load()
            with self._lock:
                self._tables[key], self._bytes = table, self._bytes + table.nbytes
                while self._bytes > self._limit and len(self._tables) > 1:
                    self._bytes -= self._tables.popitem(last=False)[1].nbytes
                self._reading.pop(key, None)
        return table


class _named:
    """A context in which whatever pyarrow finds wrong with a file is a DataError with its name."""

    def __init__(self, file: File) -> None:
        self._path = file.path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        of_arrow = type(error).__module__.startswith("pyarrow")
        undecoded = type(error) is OSError and error.errno is None  # what Arrow says of bad pages
        if of_arrow or (undecoded and not files.is_remote(self._path)):
            first = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"{self._path} cannot be read as parquet ({first}); it may be cut off: copy it "
                "again, or leave it out of the pattern"
            ) from None


def _opened(file: File, footer: Any = None) -> Any:
    """The pyarrow ParquetFile of a file, a context. DataError if it is none, or without pyarrow.

    footer: its metadata, if they are known.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{file.path}: reading parquet needs pyarrow; run: {INSTALL}") from None
    with _named(file):
        source = files.open_file(file.path) if files.is_remote(file.path) else file.path
        return ParquetFile(source, metadata=footer, pre_buffer=files.is_remote(file.path))


def _shard(file: File, fields: field_table.Fields) -> _Shard:
    """What is to be known of a file. DataError if it has rows, but not the columns asked for."""
    with _opened(file) as opened:
        groups = range(opened.metadata.num_row_groups)
        rows = np.array([opened.metadata.row_group(g).num_rows for g in groups], np.int64)
        schema = opened.schema_arrow
        if rows.sum():
            field_table.check(fields, schema.names, file.path)
        wanted = [name for name in field_table.columns(fields) if name in schema.names]
        types = {name: str(schema.field(name).type).replace("large_", "") for name in wanted}
        return _Shard(file, rows, types, _label_names(schema))


def _check_types(shards: Sequence[_Shard]) -> None:
    """DataError unless all shards have the same columns; a shard of nulls fits any type."""
    first = shards[0].types
    for shard in shards:
        for name in sorted(first.keys() | shard.types.keys()):
            here, there = (types.get(name, "absent") for types in (shard.types, first))
            if here != there and "null" not in (here, there):
                raise DataError(
                    f"{shard.file.path}: column {name!r} is {here}, but {there} in "
                    f"{shards[0].file.path}; read them as two sources of a mixture"
                )


def _label_names(schema: Any) -> dict[str, list[str]]:
    """Column to the names of its numbers, from the header that the `datasets` library writes."""
    header = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(header)["info"]["features"]
        return {
            column: list(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
