"""Small shards of every kind, for the tests of what reads them."""

import io
import tarfile

import numpy as np

from vlm_jax.data import images


def png(number):
    """A picture of 4 x 4 pixels whose value is a number."""
    return images.encode_png(np.full((4, 4, 3), number % 256, np.uint8))


def write_tar(path, members):
    """A tar with these (name, content) members; contents are bytes."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def numbered(first, count):
    """Members of `count` examples: 0007.png is a picture of 7, 0007.txt says so."""
    for i in range(first, first + count):
        yield f"{i:04}.png", png(i)
        yield f"{i:04}.txt", f"number {i}\n".encode()


def write_tars(folder, counts):
    """Shards part-000.tar, part-001.tar ... with so many examples, numbered through."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        write_tar(folder / f"part-{shard:03}.tar", numbered(sum(counts[:shard]), count))
    return f"{folder}/part-{{000..{len(counts) - 1:03}}}.tar"


def write_parquet(path, columns, rows_per_group=4, schema=None):
    """A parquet file of {name: values}."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(columns, schema=schema)
    parquet.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def write_parquets(folder, counts, rows_per_group=4):
    """Files with the same examples as those of `write_tars`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(len(counts)):
        numbers = range(sum(counts[:shard]), sum(counts[: shard + 1]))
        columns = {
            "image": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
            "caption": [f"number {i}" for i in numbers],
        }
        write_parquet(folder / f"part-{shard:03}.parquet", columns, rows_per_group)
    return f"{folder}/*.parquet"


def message(**features):
    """A serialized tf.train.Example with lists of bytes or of whole numbers."""
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    for name, values in features.items():
        kind = "bytes_list" if isinstance(values[0], bytes) else "int64_list"
        getattr(made.features.feature[name], kind).value.extend(values)
    return made.SerializeToString()


def write_records(path, records):
    """An array_record file of these records, bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


def write_record_shards(folder, counts):
    """Files with the same examples as those of `write_tars`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        numbers = range(sum(counts[:shard]), sum(counts[:shard]) + count)
        records = [message(image=[png(i)], caption=[b"number %d" % i]) for i in numbers]
        write_records(folder / f"part-{shard:03}.array_record", records)
    return f"{folder}/part-*.array_record"
