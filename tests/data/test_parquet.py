import builtins
import json
import threading

import fsspec
import pyarrow
import pytest

from tests.data.shards import png, write_parquet, write_parquets
from vlm_jax.data import parquet
from vlm_jax.data.parquet import Parquet
from vlm_jax.data.schema import DataError


def test_rows_come_in_the_order_of_files_from_anywhere(tmp_path):
    source = Parquet(write_parquets(tmp_path, [5, 0, 9]))
    assert len(source) == 14 and source.name == "parquet/part-000..."
    for i in (13, 0, 4, 5, 8, 9):
        local = i - (0 if i < 5 else 5)
        shard = "part-000" if i < 5 else "part-002"
        assert source[i] == {
            "id": f"{shard}/{local}",
            "image": png(i),
            "captions": [f"number {i}"],
            "questions": [],
        }
    for wrong in (-1, 14):
        with pytest.raises(IndexError, match=f"position {wrong} is outside"):
            source[wrong]


def test_nested_captions_plain_bytes_and_paths(tmp_path):
    columns = {
        "picture": [b"bytes"],
        "file": ["pictures/1.png"],
        "sentences": [[{"raw": "a", "id": 1}, {"raw": "b", "id": 2}]],
        "all": [[["c"], ["d", "e"]]],
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    nested = Parquet(path, {"image": "picture", "captions": "sentences:raw"})
    assert nested[0]["image"] == b"bytes" and nested[0]["captions"] == ["a", "b"]
    paths = Parquet(path, {"image": "file", "captions": "all"})
    assert paths[0]["image"] == f"{tmp_path}/pictures/1.png"
    assert paths[0]["captions"] == ["c", "d", "e"]


def test_numbers_of_labels_become_names(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "I"}}
    header = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    fields = [("image", pyarrow.binary()), ("label", pyarrow.int64())]
    columns = {"image": [b"x", b"y"], "label": [1, 0]}
    path = tmp_path / "a.parquet"
    table = {"image": "image", "label": "label"}
    write_parquet(path, columns, schema=pyarrow.schema(fields, metadata=header))
    assert [example["label"] for example in Parquet(str(path), table)] == ["dog", "cat"]
    for broken in (b"[]", b"{", b'{"info": null}'):
        schema = pyarrow.schema(fields, metadata={b"huggingface": broken})
        write_parquet(path, columns, schema=schema)
        assert Parquet(str(path), table)[0]["label"] == "1"


def test_row_groups_are_read_once_while_they_are_kept(tmp_path, monkeypatch):
    source = Parquet(write_parquets(tmp_path, [40], rows_per_group=10))
    loads, load = [], source._load
    monkeypatch.setattr(source, "_load", lambda group: loads.append(group) or load(group))
    for i in (0, 11, 3, 15, 39, 2):
        assert source[i]["captions"] == [f"number {i}"]
    assert loads == [0, 1, 3]
    source._kept = parquet._Kept(limit=1)  # nothing but the last one stays
    loads.clear()
    for i in (0, 1, 11, 2):
        assert source[i]["captions"] == [f"number {i}"]
    assert loads == [0, 1, 0] and len(source._kept._tables) == 1


def test_threads_that_want_the_same_row_group_share_one_read(tmp_path, monkeypatch):
    source = Parquet(write_parquets(tmp_path, [40], rows_per_group=10))
    loads, load, together = [], source._load, threading.Barrier(8)
    monkeypatch.setattr(source, "_load", lambda group: loads.append(group) or load(group))
    found = [None] * 40

    def read(first):
        together.wait(10)
        for i in range(first, 40, 8):
            found[i] = source[i]["captions"][0]

    threads = [threading.Thread(target=read, args=(first,)) for first in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [f"number {i}" for i in range(40)] and sorted(loads) == [0, 1, 2, 3]


def test_a_failed_read_is_tried_anew_next_time():
    kept = parquet._Kept(limit=1000)
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            kept.get(0, lambda: (_ for _ in ()).throw(OSError("down")))
    assert kept.get(0, lambda: pyarrow.table({"a": [1]})).num_rows == 1


def test_training_reads_every_row_group_once_an_epoch(tmp_path, monkeypatch):
    source = Parquet(write_parquets(tmp_path, [40, 37], rows_per_group=5), window=3)
    loads, load = [], source._load
    monkeypatch.setattr(source, "_load", lambda group: loads.append(group) or load(group))
    table_bytes = load(0).nbytes
    source._kept = parquet._Kept(limit=7 * table_bytes)  # a little over two windows
    order = source.order(3)
    positions = [order(i) for i in range(77)]
    assert sorted(positions) == list(range(77)) and positions != sorted(positions)
    for position in positions:
        source[position]
    assert len(loads) == len(set(loads)) == 16


def test_shards_that_differ_are_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": [b"x"], "caption": ["a"]})
    with pytest.raises(DataError, match="a.parquet: no txt for 'captions'; there is caption, im"):
        Parquet(f"{tmp_path}/*.parquet", {"image": "image", "captions": "txt"})
    write_parquet(tmp_path / "b.parquet", {"image": [b"x"], "caption": [["a"]]})
    with pytest.raises(
        DataError, match="b.parquet: column 'caption' is list<.*but string in .*/a.par"
    ):
        Parquet(f"{tmp_path}/*.parquet")
    write_parquet(tmp_path / "b.parquet", {"image": [b"x"], "text": ["a"]})
    with pytest.raises(DataError, match="b.parquet: column 'caption' is absent, but string"):
        Parquet(f"{tmp_path}/*.parquet")
    write_parquet(tmp_path / "b.parquet", {"image": [b"x"], "words": ["a"]})
    with pytest.raises(DataError, match="b.parquet: no caption or .* for 'captions'; there is im"):
        Parquet(f"{tmp_path}/*.parquet")


@pytest.mark.parametrize("keep", [0, 3, 100, -4])
def test_a_file_that_is_cut_off_is_named(tmp_path, keep):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"image": [b"x" * 500] * 9, "caption": ["a"] * 9})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="a.parquet cannot be read as parquet .*cut off: copy it"):
        Parquet(str(path))


def test_a_damaged_row_group_breaks_its_examples_only(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"image": [bytes([i]) * 500 for i in range(8)], "caption": ["a"] * 8})
    content = bytearray(path.read_bytes())
    content[8:300] = b"\xff" * 292
    path.write_bytes(content)
    source = Parquet(str(path))
    with pytest.raises(DataError, match="a.parquet cannot be read as parquet"):
        source[0]
    assert source[7]["image"] == b"\7" * 500


def test_wrong_options_and_missing_pyarrow(tmp_path, monkeypatch):
    pattern = write_parquets(tmp_path, [3])
    with pytest.raises(ValueError, match="window=0"):
        Parquet(pattern, window=0)
    with pytest.raises(DataError, match="the shards hold no row"):
        Parquet(write_parquets(tmp_path / "none", [0]))
    load = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="needs pyarrow; run: pip install pyarrow"):
        Parquet(pattern)


def test_remote_files(tmp_path):
    write_parquets(tmp_path, [6])
    store = fsspec.filesystem("memory")
    store.pipe_file("/parquet/a.parquet", (tmp_path / "part-000.parquet").read_bytes())
    source = Parquet("memory://parquet/*.parquet")
    assert len(source) == 6 and source[5]["captions"] == ["number 5"]
    assert source[5]["id"] == "a/5"
    store.rm("/parquet", recursive=True)
