"""A memory comes back as it was, goes on where it stopped, and says what is wrong with it."""

import json

import numpy as np
import pytest

from vlm_jax.memory import BadMemory, Memory, Writer, store

ABOUT = {"fingerprint": "f", "encoder": "none", "data": {}, "of": "image"}
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)
ENTRIES = [{"id": f"ü{i // 3}", "texts": [f"text {i}"]} for i in range(10)]


def test_vectors_and_entries_come_back_over_the_ends_of_shards(tmp_path):
    memory = store.write(tmp_path, ABOUT, ROWS, ENTRIES, shard=4)
    assert (len(memory), memory.width, memory.most_per_id) == (10, 3, 3)
    assert memory.about == ABOUT and memory.fingerprint == "f"
    for start, stop in ((0, 10), (1, 3), (3, 9), (4, 8), (9, 10), (5, 5)):
        np.testing.assert_array_equal(memory.vectors(start, stop), ROWS[start:stop])
    rows = np.array([[9, 0], [4, 3]])
    np.testing.assert_array_equal(memory.take(rows), ROWS[rows])
    assert [memory.entry(i) for i in range(10)] == ENTRIES
    assert isinstance(memory.vectors(1, 3).base, np.memmap)


def test_a_stopped_build_goes_on_where_it_stopped_and_gives_the_same(tmp_path):
    whole = store.write(tmp_path / "whole", ABOUT, ROWS, ENTRIES, shard=4)
    first = Writer(tmp_path / "part", ABOUT)
    first.write(ROWS[:4], ENTRIES[:4])
    with pytest.raises(BadMemory, match="building was stopped: run --mode=index again"):
        Memory(tmp_path / "part")
    # What a kill in the midst of a shard leaves behind:
    store.shard_path(tmp_path / "part", "entries", 1).write_text("half a li")
    again = store.write(tmp_path / "part", ABOUT, ROWS, ENTRIES, shard=4)
    assert again.digest == whole.digest
    with pytest.raises(BadMemory, match="another model or of other data"):
        Writer(tmp_path / "part", ABOUT | {"fingerprint": "g"})


def test_another_model_is_named(tmp_path):
    memory = store.write(tmp_path, ABOUT, ROWS, ENTRIES)
    memory.require("f", "the run x")
    with pytest.raises(BadMemory, match="built by another model than the run x"):
        memory.require("g", "the run x")


@pytest.mark.parametrize("kind", ["vectors", "entries", "offsets"])
def test_a_truncated_or_missing_file_is_named(tmp_path, kind):
    store.write(tmp_path, ABOUT, ROWS, ENTRIES, shard=5)
    path = store.shard_path(tmp_path, kind, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(BadMemory, match=rf"{kind}-00001.* is damaged or truncated"):
        Memory(tmp_path)
    path.unlink()
    with pytest.raises(BadMemory, match=rf"{kind}-00001.* is damaged or truncated"):
        Memory(tmp_path)


def test_nothing_and_what_is_not_finite_cannot_be_remembered(tmp_path):
    with pytest.raises(BadMemory, match="there is nothing to remember"):
        store.write(tmp_path / "a", ABOUT, ROWS[:0], [])
    broken = ROWS.copy()
    broken[4, 1] = np.inf
    with pytest.raises(BadMemory, match="1 embeddings are not finite, the first that of .*'ü1'"):
        store.write(tmp_path / "b", ABOUT, broken, ENTRIES)
    with pytest.raises(ValueError, match="10 vectors and 9 entries"):
        store.write(tmp_path / "c", ABOUT, ROWS, ENTRIES[:9])


def test_a_folder_that_is_no_memory_is_named(tmp_path):
    with pytest.raises(BadMemory, match="is no memory, it has no memory.json"):
        Memory(tmp_path)
    memory = store.write(tmp_path / "a", ABOUT, ROWS, ENTRIES)
    path = memory.folder / store.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(BadMemory, match="has format 99"):
        Memory(memory.folder)
    path.write_text("{")
    with pytest.raises(BadMemory, match=r"memory.json cannot be read"):
        Memory(memory.folder)
    path.write_text(json.dumps(manifest | {"shards": []}))
    with pytest.raises(BadMemory, match="is an empty memory"):
        Memory(memory.folder)
