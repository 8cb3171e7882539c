import json
from collections import Counter

import numpy as np
import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.data.sources import (
    Mixture,
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


def test_a_mixture_shows_everything_once_by_default_evenly_interleaved():
    mixed = Mixture([Listed("a", [0] * 2), Listed("b", [0] * 6)])
    assert mixed.name == "a+b"
    assert sorted(ids(mixed)) == sorted(["0/a0", "0/a1", *(f"1/b{i}" for i in range(6))])
    for start in (0, 4):  # each half has one a
        assert sum(name.startswith("0/") for name in ids(mixed)[start : start + 4]) == 1


@pytest.mark.parametrize(
    ("lengths", "weights"), [((10, 30), (1, 1)), ((7, 7), (3, 1)), ((5, 11, 2), (0.2, 0.5, 0.3))]
)
def test_a_weighted_mixture_keeps_its_proportions_everywhere_and_leaves_nothing_out(
    lengths, weights
):
    mixed = Mixture([Listed(n, [0] * k) for n, k in zip("abc", lengths, strict=False)], weights)
    seen = ids(mixed)
    assert len(set(seen)) == sum(lengths)
    share = np.array(weights) / sum(weights)
    for stop in range(1, len(seen) + 1):
        counts = Counter(name[0] for name in seen[:stop])
        drawn = np.array([counts[str(k)] for k in range(len(lengths))])
        assert np.abs(drawn - stop * share).max() < len(lengths)
    for k, length in enumerate(lengths):  # each source in order, starting over at its end
        positions = [int(name[3:]) for name in seen if name[0] == str(k)]
        assert positions == [i % length for i in range(len(positions))]


def test_equal_weights_repeat_the_smaller_source():
    mixed = Mixture([Listed("a", [0] * 10), Listed("b", [0] * 30)], (0.1, 0.1))
    assert Counter(name[0] for name in ids(mixed)) == {"0": 30, "1": 30}


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, 1, 1), (1, float("nan"))])
def test_weights_that_do_not_fit_are_an_error(weights):
    with pytest.raises(ValueError, match="as many positive weights"):
        Mixture([Listed("a", [0]), Listed("b", [0])], weights)


def test_an_empty_source_cannot_be_mixed():
    for sources in ([], [Listed("a", [0]), Listed("b", [])]):
        with pytest.raises(DataError, match="at least one source"):
            Mixture(sources)


def test_configs_make_sources_and_sources_of_sources():
    scenes = {"name": "scenes", "split": "val", "length": 9, "questions": 2}
    assert len(make_source(scenes)) == 9
    assert ids(make_source({"name": "subset", "source": scenes, "start": -2})) == [
        make_source(scenes)[i]["id"] for i in (7, 8)
    ]
    assert len(make_source({"name": "questions", "source": scenes})) == 18
    mixed = make_source({"name": "mixture", "sources": [scenes, scenes], "weights": [1, 2]})
    assert len(mixed) == 27


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
