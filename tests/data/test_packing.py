"""Rows of several examples: complete, deterministic, resumable, and with little padding."""

import json

import numpy as np
import pytest

from vlm_jax.data.packing import Packer, Packing, join, padding_share, together
from vlm_jax.data.pipeline import InputReader, Loader, train_batches
from vlm_jax.data.schema import DataError

LENGTH = 12


def example(place, size=None):
    """An example whose tokens tell which one it is."""
    size = size or 2 + (place * 7919) % 5
    real = np.arange(8) < size
    tokens = np.where(real, 100 * (place + 1) + np.arange(8), 0).astype(np.int32)
    text = {"tokens": tokens, "tokens_mask": real, "prefix": np.int32(1), "targets": tokens + 1}
    text["targets_mask"] = real & (np.arange(8) >= 1)
    image = np.full((2, 2, 3), place % 256, np.uint8)
    return {"image": image, "index": np.int32(place), "words": text}


def packer(**options):
    return Packer(
        example, Packing("words", **(dict(length=LENGTH, images=4, look_ahead=3) | options))
    )


def test_a_row_holds_examples_one_after_the_other():
    row = join([example(0, 3), example(1, 2)], Packing("words", 7, 3))
    words = row["words"]
    np.testing.assert_array_equal(words["tokens"], [100, 101, 102, 200, 201, 0, 0])
    np.testing.assert_array_equal(words["targets"], [101, 102, 103, 201, 202, 0, 0])
    np.testing.assert_array_equal(words["tokens_mask"], [1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(words["targets_mask"], [0, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(words["segments"], [1, 1, 1, 2, 2, 0, 0])
    np.testing.assert_array_equal(words["prefix"], [1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(row["index"], [0, 1, -1])
    assert row["image"].shape == (3, 2, 2, 3) and row["image"][1].max() == 1
    assert all(words[key].dtype == np.int32 for key in ("tokens", "targets", "segments", "prefix"))
    assert words["tokens_mask"].dtype == words["targets_mask"].dtype == bool


def test_every_example_comes_once_and_whole_and_never_far_from_its_place():
    found, rows = [], packer()
    for number, row in zip(range(60), rows, strict=False):
        index = row["index"][row["index"] >= 0]
        found.extend(index.tolist())
        assert row["words"]["segments"].max() == len(index)
        for segment, place in enumerate(index, 1):
            tokens = row["words"]["tokens"][row["words"]["segments"] == segment]
            expected = example(int(place))["words"]
            np.testing.assert_array_equal(tokens, expected["tokens"][expected["tokens_mask"]])
        assert abs(int(index[0]) - 3 * number) < 20
    held = [place for row in rows.get_state()["open"] for place in row]
    assert sorted(found + held) == list(range(len(found) + len(held)))


def test_looking_ahead_leaves_less_padding():
    shares = {}
    for look_ahead in (1, 8):
        rows = packer(look_ahead=look_ahead)
        used = sum(next(rows)["words"]["tokens_mask"].sum() for _ in range(50))
        shares[look_ahead] = padding_share({"lanes": {"0": rows.get_state()}}, LENGTH)
        assert shares[look_ahead] == pytest.approx(1 - used / (50 * LENGTH))
    assert shares[8] < shares[1] and shares[8] < 0.03


def test_a_row_has_no_more_images_than_it_may():
    rows = packer(images=2)
    assert all(next(rows)["words"]["segments"].max() <= 2 for _ in range(20))


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_stored_state_goes_on_with_the_same_rows(stop):
    rows = packer()
    for _ in range(stop):
        next(rows)
    state = json.loads(json.dumps(rows.get_state()))
    again = packer()
    again.set_state(state)
    for _ in range(10):
        one, other = next(rows), next(again)
        np.testing.assert_array_equal(one["index"], other["index"])
        np.testing.assert_array_equal(one["words"]["tokens"], other["words"]["tokens"])
    assert rows.get_state() == again.get_state()


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(DataError, match="6 tokens does not fit a row of length=5"):
        list(zip(range(9), packer(length=5), strict=False))
    with pytest.raises(ValueError, match="look_ahead=0"):
        packer(look_ahead=0)
    described = example(0)
    described["words"]["text"] = np.zeros(3, np.int32)
    with pytest.raises(DataError, match="task words have tokens, .*, text: packed are those"):
        join([described], Packing("words", LENGTH))


class Numbers:
    """Sixty pictures whose captions are as long as their numbers say."""

    name = "numbers"

    def __len__(self):
        return 60

    def __getitem__(self, index):
        image = np.full((2, 2, 3), index, np.uint8)
        return {"id": str(index), "image": image, "captions": [str(index)], "questions": []}


def words(shown, rng):
    """Tokens that tell the picture and, with rng, a random choice."""
    made = example(int(shown["id"]))["words"]
    noise = 0 if rng is None else int(rng.integers(1000))
    return made | {"targets": np.where(made["tokens_mask"], made["tokens"] + noise, 0)}


def batches(rows=None, seed=3):
    loader = Loader(Numbers(), InputReader(2), {"words": words})
    packing = Packing("words", LENGTH, images=4, look_ahead=2)
    return iter(train_batches(loader, batch_size=4, seed=seed, rows=rows, packing=packing))


def assert_equal(one, other):
    np.testing.assert_array_equal(one["index"], other["index"])
    np.testing.assert_array_equal(one["image"], other["image"])
    for key, value in one["words"].items():
        np.testing.assert_array_equal(value, other["words"][key])


def test_processes_make_the_rows_that_one_would_and_go_on_as_another_number_of_them():
    whole, halves = batches(), [batches(range(2)), batches(range(2, 4))]
    for _ in range(5):
        batch = next(whole)
        parts = [next(half) for half in halves]
        joined = {"words": {}} | {
            k: np.concatenate([p[k] for p in parts]) for k in ("index", "image")
        }
        joined["words"] = {
            k: np.concatenate([p["words"][k] for p in parts]) for k in batch["words"]
        }
        assert_equal(batch, joined)
    state = json.loads(json.dumps(together([half.get_state() for half in halves])))
    assert state == together([whole.get_state()])
    alone, first = batches(), batches(range(1))
    alone.set_state(state)
    first.set_state(state)
    expected = next(whole)
    assert_equal(next(alone), expected)
    np.testing.assert_array_equal(next(first)["index"], expected["index"][:1])


def test_every_row_reads_its_own_share_of_the_stream():
    stream, seen = batches(), [[] for _ in range(4)]
    for _ in range(12):
        for row, index in zip(seen, next(stream)["index"], strict=True):
            row.extend(index[index >= 0].tolist())
    first = [row[:10] for row in seen]  # of 15 in an epoch
    assert len({index for row in first for index in row}) == 40
    other = next(batches(seed=4))
    assert not np.array_equal(other["index"], next(batches())["index"])
