"""array_record shards of tf.train.Example messages: what tfds, Beam and grain users write.

A data set that tensorflow-datasets prepared is better read by `vlm_jax.data.tfds_source`, which
knows its features. No TensorFlow is needed for either.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax.data import fields as field_table
from vlm_jax.data import files
from vlm_jax.data.schema import DataError, Example, inside

FIELDS = {"image": "image", "captions": "captions;caption;text"}
"""Where the parts of an example lie if a config does not say it; see `vlm_jax.data.fields`."""

OPEN = 256
"""So many shards stay open at a time."""


class ArrayRecord:
    """The records of array_record files, in the order of the files.

    shards: a pattern, or several, see `vlm_jax.data.files`; remote ones are copied to the cache
    once, because the reader needs a disk. fields: parts of an example to features. Ids, where
    `fields` has none, are the shard's name and the record: "train-00000-of-00008/17".

    Write such files with group_size:1, or every record is read with its neighbours. DataError if
    there is no shard, or one is damaged or holds other messages.
    """

    def __init__(self, shards: str | Sequence[str], fields: Mapping[str, str] = FIELDS) -> None:
        self._fields = field_table.parse(fields)
        self._shards = files.find(shards)
        self._paths = files.concurrently(files.local_copy, self._shards)
        self._reader = functools.lru_cache(OPEN)(self._open)
        self._counts = files.concurrently(self._count, range(len(self._shards)))
        self._ends = np.cumsum(self._counts)
        root = files.common_folder([shard.path for shard in self._shards])
        self._names = [files.below(shard.path, root, ".array_record") for shard in self._shards]
        self.name = f"array_record/{self._names[0]}" + ("..." if len(self._shards) > 1 else "")
        if not len(self):
            raise DataError(f"{self._shards[0].path}: the shards hold no record")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        number = index - int(self._ends[shard]) + self._counts[shard]
        record = self._record(shard, number)
        return field_table.example(
            self._fields,
            record.__getitem__,
            record,
            f"{self._shards[shard].path}, record {number}",
            f"{self._names[shard]}/{number}",
        )

    def _open(self, shard: int) -> Any:
        """A reader of a shard, which several threads may use."""
        from array_record.python.array_record_module import ArrayRecordReader

        path = self._shards[shard].path
        options = dict(options="readahead_buffer_size:0", file_reader_buffer_size=1 << 15)
        advice = "copy it again, or leave it out of the pattern"
        try:
            reader = ArrayRecordReader(self._paths[shard], **options)
            sound = reader.ok()  # False where the end is missing, which num_records calls empty
        except RuntimeError as error:
            raise DataError(f"{path} cannot be opened ({error}); {advice}") from None
        if not sound:
            raise DataError(f"{path} is cut off, or no array_record file; {advice}")
        return reader

    def _count(self, shard: int) -> int:
        """The number of records in a shard, once the first is known to have what is asked for."""
        count = int(self._reader(shard).num_records())
        if count:
            record = self._record(shard, 0)
            field_table.check(self._fields, record, self._shards[shard].path)
        return count

    def _record(self, shard: int, number: int) -> Mapping[str, Any]:
        """Feature to its list of values in a record."""
        from tensorflow_datasets.proto import tf_example_pb2  # a second, which others need not pay

        parser: Any = vars(tf_example_pb2)["Example"]  # made at run time, unseen by type checkers
        where = f"{self._shards[shard].path}, record {number}"
        try:
            content = self._reader(shard).read([number])[0]
        except RuntimeError as error:
            raise DataError(f"{where} is damaged ({error}); copy the shard again") from None
        try:
            message: Any = parser.FromString(content)
        except Exception as error:  # DecodeError, of a package that is no dependency of ours
            raise DataError(f"{where} is no tf.train.Example message ({error})") from None
        features = message.features.feature
        return {name: _values(features[name]) for name in features}


def _values(feature: Any) -> Any:
    """The values of a feature: the only one, or a list of them."""
    values = list(getattr(feature, feature.WhichOneof("kind") or "bytes_list").value)
    return values[0] if len(values) == 1 else values
