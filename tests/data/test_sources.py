import json

import pytest

from tests.data.shards import write_parquets, write_record_shards, write_tars
from vlm_jax.data.schema import DataError
from vlm_jax.data.sources import (
    Subset,
    flatten_questions,
    make_source,
)


class Listed:
    """A source over question counts: example i has counts[i] questions."""

    def __init__(self, name, counts):
        self.name, self.counts = name, counts

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        asked = [{"question": f"{index}.{k}?", "answers": ["x"]} for k in range(self.counts[index])]

        def image():
            raise AssertionError("no image is needed here")

        return {"id": f"{self.name}{index}", "image": image, "captions": [], "questions": asked}


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def test_a_subset_keeps_order_and_repeats():
    source = Subset(Listed("a", [0] * 5), [4, 0, 0])
    assert ids(source) == ["a4", "a0", "a0"] and source.name == "a"
    assert len(Subset(Listed("a", [0]), [])) == 0
    for wrong in (-1, 3):
        with pytest.raises(IndexError):
            source[wrong]


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_subset_of_positions_that_do_not_exist_is_an_error(wrong):
    with pytest.raises(IndexError, match=f"position {wrong} is outside a, which has 5"):
        Subset(Listed("a", [0] * 5), [1, wrong])


def test_every_question_comes_once_in_order_with_its_own_example():
    flat = flatten_questions(Listed("a", [0, 2, 0, 0, 1, 3, 0]))
    asked = [(flat[i]["id"], [q["question"] for q in flat[i]["questions"]]) for i in range(6)]
    assert asked == [
        ("a1/0", ["1.0?"]),
        ("a1/1", ["1.1?"]),
        ("a4/0", ["4.0?"]),
        ("a5/0", ["5.0?"]),
        ("a5/1", ["5.1?"]),
        ("a5/2", ["5.2?"]),
    ]
    assert len(flat) == 6
    for wrong in (-1, 6):
        with pytest.raises(IndexError):
            flat[wrong]


def test_a_source_without_any_question_cannot_be_flattened():
    with pytest.raises(DataError, match="a holds no questions"):
        flatten_questions(Listed("a", [0, 0]))


def test_configs_make_sources_and_sources_of_sources():
    scenes = {"name": "scenes", "split": "val", "length": 9, "questions": 2}
    assert len(make_source(scenes)) == 9
    assert ids(make_source({"name": "subset", "source": scenes, "start": -2})) == [
        make_source(scenes)[i]["id"] for i in (7, 8)
    ]
    assert len(make_source({"name": "questions", "source": scenes})) == 18
    mixed = make_source({"name": "mixture", "sources": [scenes, scenes], "weights": [1, 2]})
    assert len(mixed) == 27


def test_configs_make_sources_of_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    write = {
        "webdataset": write_tars,
        "parquet": write_parquets,
        "array_record": write_record_shards,
    }
    made = []
    for name, function in write.items():
        config = {"name": name, "shards": function(tmp_path / name, [2, 3])}
        fields = {"image": "png" if name == "webdataset" else "image"}
        fields |= {"captions": "txt" if name == "webdataset" else "caption"}
        made += [config, config | {"fields": fields, "shards": [config["shards"]]}]
    mixed = make_source({"name": "mixture", "sources": made})
    assert len(mixed) == 30
    assert len({mixed[i]["captions"][0] for i in range(30)}) == 5
    with pytest.raises(TypeError, match="did you mean 'shards'"):
        make_source({"name": "parquet", "shard": "x"})


def test_misspelt_names_and_keys_are_answered_with_the_right_ones(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'scenes'"):
        make_source({"name": "scene"})
    with pytest.raises(TypeError, match="did you mean 'split'"):
        make_source({"name": "scenes", "spilt": "train"})
    with pytest.raises(TypeError, match="lacks the required key 'path'"):
        make_source({"name": "jsonl"})
    (tmp_path / "data.jsonl").write_text(json.dumps({"id": "1"}))
    with pytest.raises(DataError, match="line 1"):
        make_source({"name": "jsonl", "path": str(tmp_path)})


def test_frames_may_be_shuffled():
    source = {"name": "moving_scenes", "split": "test", "length": 3}
    plain, found = make_source(source), make_source({"name": "shuffled_frames", "source": source})
    assert found.name == "moving_scenes/test/shuffled" and len(found) == 3
    assert found[1]["questions"] == plain[1]["questions"]
    frames = [list(row[1]["image"].frames(6)) for row in (plain, found)]
    assert sorted(x.tobytes() for x in frames[0]) == sorted(x.tobytes() for x in frames[1])
    assert any((a != b).any() for a, b in zip(*frames, strict=True))
