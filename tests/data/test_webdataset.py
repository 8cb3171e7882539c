import json

import fsspec
import pytest

from tests.data.shards import numbered, png, write_tar, write_tars
from vlm_jax.data import files
from vlm_jax.data.images import decode
from vlm_jax.data.schema import DataError
from vlm_jax.data.webdataset import WebDataset


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))


def test_examples_come_in_the_order_of_shards_from_anywhere(tmp_path):
    source = WebDataset(write_tars(tmp_path, [3, 0, 4]))
    assert len(source) == 7 and source.name == "webdataset/part-000..."
    for i in (5, 0, 6, 2, 3):
        assert source[i]["captions"] == [f"number {i}"] and source[i]["questions"] == []
        assert decode(source[i]["image"])[0, 0, 0] == i
    assert [source[i]["id"] for i in (0, 3)] == ["part-000/0000", "part-002/0003"]
    for wrong in (-1, 7):
        with pytest.raises(IndexError, match=f"position {wrong} is outside"):
            source[wrong]


def test_fields_choose_among_the_members(tmp_path):
    said = {"caption": "a cat", "uid": "x7", "more": [{"q": "how many?"}]}
    write_tar(
        tmp_path / "a.tar",
        [("1.json", json.dumps(said).encode()), ("1.webp", png(1)), ("1.cls", b"3")],
    )
    fields = {"image": "png;webp", "captions": "json:caption", "id": "json:uid", "label": "cls"}
    assert WebDataset(f"{tmp_path}/*.tar", fields)[0] == {
        "id": "x7",
        "image": png(1),
        "captions": ["a cat"],
        "questions": [],
        "label": "3",
    }


def test_members_far_apart_are_read_apart(tmp_path, monkeypatch):
    large = ("1.mp4", b"x" * 200_000)
    write_tar(tmp_path / "a.tar", [("1.png", png(1)), large, ("1.txt", b"one")])
    reads, read = [], files.read_range
    monkeypatch.setattr(files, "read_range", lambda *a: reads.append(a[2]) or read(*a))
    source = WebDataset(f"{tmp_path}/a.tar")
    example = source[0]
    assert example["image"] == png(1) and example["captions"] == ["one"]
    assert sorted(reads) == [3, len(png(1))]
    reads.clear()
    near = WebDataset(write_tars(tmp_path / "near", [1]).replace("{000..000}", "000"))
    assert near[0]["captions"] == ["number 0"] and len(reads) == 1


def test_shards_without_what_is_asked_for_are_named_at_the_start(tmp_path):
    shards = write_tars(tmp_path, [2, 2])
    with pytest.raises(DataError, match="part-000.tar: no text for 'captions'; did you mean 'txt'"):
        WebDataset(shards, {"image": "png", "captions": "text"})
    write_tar(tmp_path / "part-001.tar", [("1.jpeg", b"x"), ("1.txt", b"y")])
    with pytest.raises(DataError, match="part-001.tar: no png for 'image'; there is jpeg, txt"):
        WebDataset(shards, {"image": "png", "captions": "txt"})
    with pytest.raises(DataError, match="the shards hold no example"):
        WebDataset(write_tars(tmp_path / "none", [0]).replace("{000..000}", "*"))
    with pytest.raises(DataError, match="no file matches"):
        WebDataset(f"{tmp_path}/*.tgz")


def test_an_example_that_lacks_a_member_is_broken_and_no_other(tmp_path):
    write_tar(tmp_path / "a.tar", [*numbered(0, 2), ("0007.txt", b"alone"), *numbered(8, 1)])
    source = WebDataset(f"{tmp_path}/a.tar")
    with pytest.raises(DataError, match=r"a.tar, 0007: no .*png.* for 'image'; there is txt"):
        source[2]
    assert source[3]["captions"] == ["number 8"]


def test_a_shard_replaced_under_way_is_noticed(tmp_path):
    source = WebDataset(write_tars(tmp_path, [30]).replace("{000..000}", "*"))
    write_tar(tmp_path / "part-000.tar", numbered(0, 1))
    with pytest.raises(DataError, match="part-000.tar ends at byte .* cut off, or was replaced"):
        source[29]


def test_remote_shards_and_a_remote_folder_of_indexes(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    write_tars(tmp_path / "local", [3, 4])
    for name in ("part-000.tar", "part-001.tar"):
        store.pipe_file(f"/webdataset/{name}", (tmp_path / "local" / name).read_bytes())
    for cache in ("one", "two"):
        monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / cache))
        source = WebDataset(
            "memory://webdataset/part-{000..001}.tar", index="memory://webdataset/indexes"
        )
        assert [source[i]["captions"] for i in (0, 6)] == [["number 0"], ["number 6"]]
        assert len(store.ls("/webdataset/indexes")) == 2
        monkeypatch.setattr("vlm_jax.data.tar_index.scan", None)  # found in the folder next time
    store.rm("/webdataset", recursive=True)
