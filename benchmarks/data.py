"""Examples per second out of tar, parquet, array_record and loose files, against plain peers.

    pip install webdataset          # once; not a dependency of vlm_jax
    python -m benchmarks.data [--images 4000] [--size 128] [--rounds 3] [--json]

The same made-up pictures with captions in four forms. Both sides read every caption and decode
every picture, by the same function, in one thread, in turn. Ours reads in the shuffled order of
training and checks every example; the peers read in whatever order is best for them:

    tar           the webdataset library, shard after shard, shuffled in a buffer of 1,000
    parquet       pyarrow, row group after row group, in the order of the file
    array_record  grain's data source, one record after the other at random
    files         json.loads of a line and open of a path, at random

A ratio is our examples per second of processor time by theirs, so higher is better; seconds on the
clock stand beside it. With --json the last line is one JSON object {"tar": {"ratio": ...}, ...}.
"""

import argparse
import io
import json
import math
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_jax.data import images, order
from vlm_jax.data.sources import make_source

SHARDS, ROWS = 4, 100


def make_data(folder: Path, count: int, size: int) -> None:
    """Writes the same pictures as JPEG, with captions, in every form."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(count, 200)):  # so many different ones: making them takes the longest
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((size, size)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    rows = [(f"{i:06}", pictures[i % len(pictures)], f"picture number {i}") for i in range(count)]
    for number, part in enumerate(np.array_split(np.arange(count), SHARDS)):
        shard = [rows[i] for i in part]
        for write in (_write_tar, _write_parquet, _write_records):
            write(folder / f"part-{number:03}", shard)
    (folder / "pictures").mkdir()
    with (folder / "data.jsonl").open("w") as lines:
        for name, picture, caption in rows:
            (folder / "pictures" / f"{name}.jpg").write_bytes(picture)
            line = {"id": name, "image": f"pictures/{name}.jpg", "captions": [caption]}
            print(json.dumps(line), file=lines)


Rows = list[tuple[str, bytes, str]]


def _write_tar(path: Path, rows: Rows) -> None:
    with tarfile.open(f"{path}.tar", "w") as archive:
        for name, picture, caption in rows:
            for kind, content in (("jpg", picture), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{name}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _write_parquet(path: Path, rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet

    table = {"image": [{"bytes": row[1]} for row in rows], "caption": [row[2] for row in rows]}
    parquet.write_table(pyarrow.table(table), f"{path}.parquet", row_group_size=ROWS)


def _write_records(path: Path, rows: Rows) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(f"{path}.array_record", "group_size:1")
    for _, picture, caption in rows:
        message = _example().Example()
        for name, value in (("image", picture), ("caption", caption.encode())):
            message.features.feature[name].bytes_list.value.append(value)
        writer.write(message.SerializeToString())
    writer.close()


def _example():
    """The module with the messages of TensorFlow, without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2


# --- one side: our sources, in the order of training ----------------------------------------------


def ours(config: dict) -> Callable[[], Iterator[tuple[np.ndarray, str]]]:
    """Reads one epoch of a source in the order that training would."""
    source = make_source(config)
    stream = order.shuffled(source, 0)

    def read() -> Iterator[tuple[np.ndarray, str]]:
        for position in range(len(source)):
            example = source[stream[position]]
            yield images.decode(example["image"]), example["captions"][0]

    return read


# --- the other: what a user would write without us ------------------------------------------------


def plain_tar(folder: Path) -> Callable[[], Iterator[tuple[np.ndarray, str]]]:
    """The webdataset library; exits with a remedy where it is not installed."""
    try:
        import webdataset
    except ImportError as error:
        sys.exit(f"{error}\nThe other side is missing; install it: pip install webdataset")
    shards = sorted(str(path) for path in folder.glob("*.tar"))

    def read() -> Iterator[tuple[np.ndarray, str]]:
        for found in webdataset.WebDataset(shards, shardshuffle=SHARDS).shuffle(1000):
            yield images.decode(found["jpg"]), found["txt"].decode()

    return read


def plain_parquet(folder: Path) -> Callable[[], Iterator[tuple[np.ndarray, str]]]:
    """pyarrow's own iteration over row groups."""
    from pyarrow.parquet import ParquetFile

    def read() -> Iterator[tuple[np.ndarray, str]]:
        for path in sorted(folder.glob("*.parquet")):
            for batch in ParquetFile(path).iter_batches(ROWS):
                for row in batch.to_pylist():
                    yield images.decode(row["image"]["bytes"]), row["caption"]

    return read


def plain_records(folder: Path) -> Callable[[], Iterator[tuple[np.ndarray, str]]]:
    """Grain's source of records, at random."""
    import grain

    records = grain.sources.ArrayRecordDataSource([str(p) for p in folder.glob("*.array_record")])

    def read() -> Iterator[tuple[np.ndarray, str]]:
        for content in grain.MapDataset.source(records).seed(0).shuffle():
            feature = _example().Example.FromString(content).features.feature
            yield (
                images.decode(feature["image"].bytes_list.value[0]),
                feature["caption"].bytes_list.value[0].decode(),
            )

    return read


def plain_files(folder: Path) -> Callable[[], Iterator[tuple[np.ndarray, str]]]:
    """All lines in memory, pictures opened at random."""
    lines = (folder / "data.jsonl").read_text().splitlines()

    def read() -> Iterator[tuple[np.ndarray, str]]:
        for position in np.random.default_rng(0).permutation(len(lines)):
            found = json.loads(lines[position])
            yield images.decode(str(folder / found["image"])), found["captions"][0]

    return read


def measure(read: Callable[[], Iterator[tuple[np.ndarray, str]]], count: int) -> list[float]:
    """[processor seconds, seconds on the clock] of one epoch, once all captions are found in it."""
    captions = set()
    clocks = time.process_time(), time.perf_counter()
    for pixels, caption in read():
        assert pixels.ndim == 3
        captions.add(caption)
    taken = [time.process_time() - clocks[0], time.perf_counter() - clocks[1]]
    assert captions == {f"picture number {i}" for i in range(count)}
    return taken


def main() -> None:
    """Run both sides in turn and print examples per second and ratios."""
    parser = argparse.ArgumentParser(description="Sources of examples against plain peers.")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VLM_JAX_DATA"] = f"{temporary}/cache"
        folder = Path(temporary) / "data"
        folder.mkdir()
        make_data(folder, options.images, options.size)
        shards = {kind: f"{folder}/*.{kind}" for kind in ("tar", "parquet", "array_record")}
        start = time.process_time()
        tar = ours({"name": "webdataset", "shards": shards["tar"]})
        indexing = 2 * options.images / (time.process_time() - start)
        sides = {
            "tar": (tar, plain_tar(folder)),
            "parquet": (
                ours({"name": "parquet", "shards": shards["parquet"]}),
                plain_parquet(folder),
            ),
            "array_record": (
                ours({"name": "array_record", "shards": shards["array_record"]}),
                plain_records(folder),
            ),
            "files": (ours({"name": "jsonl", "path": str(folder)}), plain_files(folder)),
        }
        print(f"{options.images} JPEGs of {options.size} pixels; examples per processor second")
        print(f"the index of the tar shards: {indexing:,.0f} files per second, once\n")
        best = {name: [[math.inf] * 2, [math.inf] * 2] for name in sides}
        for _ in range(options.rounds):
            for name, pair in sides.items():
                for side, read in enumerate(pair):
                    taken = measure(read, options.images)
                    best[name][side] = [*map(min, best[name][side], taken)]
        for name, (own, other) in best.items():
            ratio = other[0] / own[0]
            speeds = [options.images / seconds for seconds in (*own, *other)]
            found[name] = {"ratio": ratio, "ours": speeds[0], "peer": speeds[2]}
            print(
                f"{name:12} {speeds[0]:7,.0f}/s  peer {speeds[2]:7,.0f}/s  ratio {ratio:.2f}"
                f"   on the clock {speeds[1]:7,.0f}/s  peer {speeds[3]:7,.0f}/s"
            )
    if options.json:
        print(json.dumps({**found, "index_files_per_second": indexing}))


if __name__ == "__main__":
    main()
