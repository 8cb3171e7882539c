import fsspec
import pytest

from tests.data.shards import message, png, write_record_shards, write_records
from vlm_jax.data import array_record
from vlm_jax.data.array_record import ArrayRecord
from vlm_jax.data.schema import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))


def test_records_come_in_the_order_of_files_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "OPEN", 1)
    source = ArrayRecord(write_record_shards(tmp_path, [3, 0, 5]))
    assert len(source) == 8 and source.name == "array_record/part-000..."
    for i, name in ((7, "part-002/4"), (0, "part-000/0"), (3, "part-002/0"), (2, "part-000/2")):
        example = {"id": name, "image": png(i), "captions": [f"number {i}"], "questions": []}
        assert source[i] == example
    for wrong in (-1, 8):
        with pytest.raises(IndexError, match=f"position {wrong} is outside"):
            source[wrong]


def test_features_fill_all_parts(tmp_path):
    record = message(i=[b"x"], c=[b"a", b"b"], q=[b"how many?"], a=[b"2"], n=[5])
    path = write_records(tmp_path / "a.array_record", [record])
    fields = {"image": "i", "captions": "c", "questions": "q", "answers": "a", "label": "n"}
    assert ArrayRecord(path, fields)[0] == {
        "id": "a/0",
        "image": b"x",
        "captions": ["a", "b"],
        "questions": [{"question": "how many?", "answers": ["2"]}],
        "label": "5",
    }


def test_missing_features_and_other_messages_are_named(tmp_path):
    good, bare = message(image=[b"x"], caption=[b"a"]), message(image=[b"x"])
    path = write_records(tmp_path / "a.array_record", [good, bare, b"\xff\xff no message"])
    source = ArrayRecord(path)
    assert source[0]["captions"] == ["a"]
    with pytest.raises(DataError, match="a.array_record, record 1: no .*caption.*there is image"):
        source[1]
    with pytest.raises(DataError, match="record 2 is no tf.train.Example message"):
        source[2]
    with pytest.raises(DataError, match="a.array_record: no captoin .*did you mean 'caption'"):
        ArrayRecord(path, {"image": "image", "captions": "captoin"})


@pytest.mark.parametrize("keep", [0, 100, 70_000, 131_000])
def test_a_file_that_is_cut_off_is_named_and_not_empty(tmp_path, keep):
    path = tmp_path / "a.array_record"
    write_records(path, [message(image=[b"x"], caption=[b"a"])] * 3)
    content = path.read_bytes()
    assert len(content) == 131_072
    path.write_bytes(content[:keep])
    with pytest.raises(DataError, match="a.array_record is cut off, or no array_record file"):
        ArrayRecord(str(path))


def test_other_files_and_empty_ones(tmp_path):
    (tmp_path / "a.array_record").write_bytes(b"hello world" * 20_000)
    with pytest.raises(DataError, match="is cut off, or no array_record file"):
        ArrayRecord(f"{tmp_path}/*.array_record")
    with pytest.raises(DataError, match="the shards hold no record"):
        ArrayRecord(write_records(tmp_path / "a.array_record", []))


def test_remote_files_are_read_from_a_copy(tmp_path):
    write_record_shards(tmp_path, [3])
    store = fsspec.filesystem("memory")
    content = (tmp_path / "part-000.array_record").read_bytes()
    store.pipe_file("/records/a.array_record", content)
    source = ArrayRecord("memory://records/*.array_record")
    assert source[2]["captions"] == ["number 2"] and source[2]["id"] == "a/2"
    store.rm("/records", recursive=True)
