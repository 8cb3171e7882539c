"""Batches depend on seed and position alone, and evaluation shows every example exactly once."""

import itertools

import numpy as np
import pytest

from vlm_jax.data.audio import AudioReader, Waveform, no_picture
from vlm_jax.data.augment import Augment
from vlm_jax.data.pipeline import (
    InputReader,
    Loader,
    eval_batches,
    mirrored,
    several,
    stack,
    train_batches,
)
from vlm_jax.data.schema import DataError
from vlm_jax.data.video_images import VideoFile, VideoPixels

N, SIDE = 11, 4


class Source(list):
    """Examples whose pixels, all of one value, say their position; those in `broken` have none."""

    name = "numbers"

    def __init__(self, count=N, broken=()):
        pixels = lambda i: np.full((SIDE, SIDE, 3), i, np.uint8)
        super().__init__(
            {
                "id": str(i),
                "image": b"no image" if i in broken else pixels(i),
                "captions": [f"number {i}"],
                "questions": [],
            }
            for i in range(count)
        )


def preprocess(example, rng):
    """The example's number, and a number drawn by chance."""
    draw = -1 if rng is None else rng.integers(1 << 30)
    return {"number": np.int32(example["id"]), "draw": np.int32(draw)}


def loader(source=None, **options):
    return Loader(source or Source(), InputReader(SIDE), {"task": preprocess}, **options)


def take(batches, count):
    return list(itertools.islice(iter(batches), count))


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        same(a[key], b[key]) if isinstance(a[key], dict) else np.testing.assert_array_equal(
            a[key], b[key]
        )


def stream(**changes):
    return train_batches(loader(), **(dict(batch_size=4, seed=3) | changes))


def test_a_training_batch_has_the_documented_shapes():
    batch = take(stream(), 1)[0]
    assert batch["image"].shape == (4, SIDE, SIDE, 3) and batch["image"].dtype == np.uint8
    assert batch["index"].dtype == np.int32 and batch["index"].shape == (4,)
    np.testing.assert_array_equal(batch["task"]["number"], batch["index"])
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])


def test_every_epoch_shows_all_examples_once_in_another_order():
    shown = np.concatenate([b["index"] for b in take(stream(), 9)])[: 3 * N].reshape(3, N)
    for epoch in shown:
        assert sorted(epoch) == list(range(N))
    assert len({tuple(epoch) for epoch in shown}) == 3
    assert list(shown[0]) != list(range(N))


def test_an_example_meets_another_chance_in_every_epoch():
    batches = take(stream(), 3 * N // 4 + 1)
    index = np.concatenate([b["index"] for b in batches])
    draws = np.concatenate([b["task"]["draw"] for b in batches])
    assert len(set(draws)) == len(draws)
    assert len(set(draws[index == index[0]])) >= 3


def test_the_seed_chooses_order_and_chance():
    a, b = take(stream(seed=1), 1)[0], take(stream(seed=2), 1)[0]
    assert list(a["task"]["draw"]) != list(b["task"]["draw"])


@pytest.mark.parametrize("changes", [dict(threads=1), dict(threads=4, prefetch=1)])
def test_threads_do_not_change_the_stream(changes):
    for a, b in zip(take(stream(), 5), take(stream(**changes), 5), strict=True):
        same(a, b)


def test_processes_share_each_global_batch():
    shares = [take(stream(rows=[p]), 4) for p in range(4)]
    for step, whole in enumerate(take(stream(), 4)):
        parts = [share[step] for share in shares]
        assert all(len(part["index"]) == 1 for part in parts)
        same(whole, stack([{k: rows(v) for k, v in part.items()} for part in parts]))


def rows(value):
    """The only row of a batch of one."""
    return {k: rows(v) for k, v in value.items()} if isinstance(value, dict) else value[0]


def test_a_stream_goes_on_from_its_state_in_the_middle_of_an_epoch():
    iterator = iter(stream())
    take(iterator, 4)
    state, expected = iterator.get_state(), take(iterator, 3)
    again = iter(stream())
    again.set_state(state)
    for a, b in zip(expected, take(again, 3), strict=True):
        same(a, b)


def test_broken_examples_are_replaced_by_the_next_and_counted():
    broken = loader(Source(broken=(2, 3)))
    index = np.concatenate(
        [b["index"] for b in take(train_batches(broken, batch_size=N, seed=0), 1)]
    )
    assert sorted(index) == sorted([0, 1, 4, 4, 4, *range(5, N)])
    assert broken.skipped.count >= 3
    assert "numbers, example" in broken.skipped.reasons[0]


def test_broken_examples_stop_the_run_if_asked_to():
    with pytest.raises(DataError, match="numbers, example 2: "):
        loader(Source(broken=(2,)), on_error="raise")(2)


def test_a_source_of_broken_examples_is_an_error_and_no_endless_search():
    with pytest.raises(DataError, match="3 examples in a row cannot be used.*example 1"):
        loader(Source(3, broken=range(3)))(1)


@pytest.mark.parametrize("batch_size", [1, 3, 4, N, 2 * N])
def test_evaluation_shows_every_example_exactly_once(batch_size):
    batches = list(eval_batches(loader(), batch_size=batch_size))
    assert {len(batch["index"]) for batch in batches} == {batch_size}
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert index.tolist() == list(range(N))
    assert all((batch["task"]["draw"] == -1).all() for batch in batches)


def test_processes_evaluate_disjoint_shares_in_equally_many_batches():
    shares = [list(eval_batches(loader(), batch_size=4, rows=rows)) for rows in ([0, 1], [2, 3])]
    assert len(shares[0]) == len(shares[1]) == 3
    index = [[i for b in share for i in b["index"][b["valid"]]] for share in shares]
    assert not set(index[0]) & set(index[1])
    assert sorted(index[0] + index[1]) == list(range(N))


def test_broken_examples_are_not_valid_in_evaluation_even_the_first():
    broken = loader(Source(broken=(0, 5)))
    batches = list(eval_batches(broken, batch_size=4))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert index.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert broken.skipped.count == 2


def test_augmentation_is_for_training_only():
    read = InputReader(SIDE, augment=Augment(flip="swap_words"))
    pixels = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    image, flipped = read(pixels, None)
    np.testing.assert_array_equal(image, pixels)
    assert not flipped


def test_features_computed_beforehand_pass_unchanged():
    features = np.ones((5, 2), np.float32)
    image, flipped = InputReader(SIDE)(features, np.random.default_rng(0))
    assert image is features and not flipped


def test_texts_follow_a_mirrored_picture():
    example = {
        "id": "a",
        "image": np.zeros((SIDE, SIDE, 3), np.uint8),
        "captions": ["a dog left of a cat", "nothing"],
        "questions": [{"question": "what is right of it", "answers": ["left", "cat"], "type": "t"}],
    }
    found = mirrored(example)
    assert found["captions"] == ["a dog right of a cat", "nothing"]
    assert found["questions"] == [
        {"question": "what is left of it", "answers": ["right", "cat"], "type": "t"}
    ]
    assert example["captions"][0] == "a dog left of a cat"


def test_stack_names_the_key_whose_shapes_differ():
    with pytest.raises(ValueError, match=r"cannot stack 'x'.*\(1,\), \(2,\)"):
        stack([{"t": {"x": np.zeros(1)}}, {"t": {"x": np.zeros(2)}}])


def first_question(example, rng):
    """What a task reads of an example: its first question, as the number at its end."""
    if not example["questions"]:
        raise DataError(f"example {example['id']} has no question")
    assert len(example["questions"]) == 1
    return {"number": np.int32(example["questions"][0]["question"].split()[-1])}


def asked(count, of, seed=0):
    """The numbers of `count` questions of an example that has `of`."""
    questions = [{"question": f"number {i}", "answers": ["yes"]} for i in range(of)]
    example = Source(1)[0] | {"questions": questions}
    rng = None if seed is None else np.random.default_rng(seed)
    return several(first_question, "questions", count)(example, rng)["number"].tolist()


def test_several_texts_of_an_image_are_different_ones_by_chance():
    assert asked(4, of=6, seed=None) == [0, 1, 2, 3]
    found = [asked(4, of=6, seed=seed) for seed in range(20)]
    assert all(len(set(numbers)) == 4 for numbers in found)
    assert set().union(*found) == set(range(6)) and len({tuple(n) for n in found}) > 10
    assert asked(4, of=6, seed=3) == found[3]


def test_too_few_texts_are_repeated_equally_often():
    assert sorted(asked(7, of=3)) in (
        [0, 0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2, 2],
    )
    with pytest.raises(DataError, match="example 0 has no question"):
        asked(2, of=0)


def clip(count):
    """A video whose frame i is of brightness i."""
    shades = np.arange(count, dtype=np.uint8)
    return VideoPixels(np.broadcast_to(shades[:, None, None, None], (count, SIDE, SIDE, 3)).copy())


def test_a_video_is_as_many_frames_as_asked_for_or_the_one_in_its_middle():
    read = InputReader(2 * SIDE, frames=3)
    pixels, flipped = read(clip(9), None)
    assert pixels.shape == (3, 2 * SIDE, 2 * SIDE, 3) and pixels.dtype == np.uint8 and not flipped
    assert list(pixels[:, 0, 0, 0]) == [1, 4, 7]
    assert InputReader(SIDE)(clip(9), None)[0][0, 0, 0] == 4
    assert read(np.zeros((SIDE, SIDE, 3), np.uint8), None)[0].ndim == 3  # a picture stays one
    with pytest.raises(ValueError, match="frames=0"):
        InputReader(SIDE, frames=0)
    with pytest.raises(ValueError, match="all of one size"):
        InputReader(SIDE, frames=2, fit="native", most=4)


def test_all_frames_of_a_video_are_augmented_alike():
    augment = Augment(crop_scale=(0.3, 0.9), brightness=0.5, flip="swap_words")
    noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    still = VideoPixels(np.repeat(noise, 4, axis=0))
    read, seen = InputReader(8, augment=augment, frames=4), set()
    for seed in range(8):
        pixels, flipped = read(still, np.random.default_rng(seed))
        assert all(np.array_equal(frame, pixels[0]) for frame in pixels)
        seen.add((flipped, pixels.tobytes()))
    assert len(seen) == 8 and {flipped for flipped, _ in seen} == {True, False}


def test_a_broken_video_is_skipped_like_a_broken_picture(tmp_path):
    source = Source(3)
    for i in range(3):
        source[i]["image"] = clip(4)
    (tmp_path / "x.mp4").write_bytes(b"")
    source[1]["image"] = VideoFile(str(tmp_path / "x.mp4"))
    read = Loader(source, InputReader(SIDE, frames=2), {"task": preprocess})
    batch = take(eval_batches(read, batch_size=3), 1)[0]
    assert batch["image"].shape == (3, 2, SIDE, SIDE, 3)
    assert list(batch["valid"]) == [True, False, True]
    assert "x.mp4 is empty" in read.skipped.reasons[0]


def test_pictures_of_many_sizes_make_one_batch_and_texts_know_their_grids():
    source = Source(3)
    for i, shape in enumerate([(8, 8, 3), (8, 16, 3), (20, 12, 3)]):
        source[i]["image"] = np.full(shape, i + 1, np.uint8)
    read = InputReader(2, fit="native", block=2, most=1000, method="nearest")
    grid = lambda example, rng: {"grid": np.array(example["grid"])}
    batch = next(eval_batches(Loader(source, read, {"task": grid}), batch_size=3))
    assert batch["task"]["grid"].tolist() == [[2, 2], [2, 4], [5, 3]]
    assert batch["image"]["segments"].sum(axis=1).tolist() == [16, 32, 60]
    pixels = batch["image"]["pixels"]
    assert pixels.shape == (3, 64, 12) and not pixels[0, 16:].any() and np.all(pixels[1, :32] == 2)
    with pytest.raises(ValueError, match=r"fit='tiles' needs longest"):
        InputReader(2, fit="tiles")
    with pytest.raises(ValueError, match="fit='tile': choose one of"):
        InputReader(2, fit="tile")


def test_sounds_are_read_beside_pictures_or_alone():
    source = Source(3)
    for i in (0, 2):
        source[i]["audio"] = Waveform(np.full(800, i / 4, np.float32), 16_000)
    both = InputReader(SIDE, listen=AudioReader(0.05, {"bins": 8}))
    load = Loader(source, both, {"task": preprocess})
    batch = next(eval_batches(load, batch_size=3))
    assert batch["image"].shape == (3, SIDE, SIDE, 3) and batch["audio"].dtype == np.uint8
    assert batch["audio"].shape == (3, 8, 5) and list(batch["valid"]) == [True, False, True]
    assert "numbers, example 1: it has no sound" in load.skipped.reasons[0]
    assert (batch["audio"][0] != batch["audio"][2]).any()
    for i in (0, 2):
        source[i]["image"] = no_picture
    heard = Loader(source, both.only("audio"), {"task": preprocess})(0)
    assert set(heard) == {"audio", "index", "task"}
    np.testing.assert_array_equal(heard["audio"], batch["audio"][0])
    with pytest.raises(DataError, match="a sound without a picture"):
        Loader(source, both, {}, on_error="raise")(0)
    assert set(Loader(Source(), both.only("image"), {})(0)) == {"image", "index"}


def test_a_conversation_has_several_pictures_and_missing_ones_are_marked():
    grey = lambda level: np.full((6, 4, 3), level, np.uint8)
    example = {"id": "a", "image": grey(10), "captions": [], "questions": []}
    both = example | {"id": "b", "pictures": [grey(10), lambda: grey(20)]}
    read = InputReader(size=8, pictures=2)
    load = lambda *examples: [
        Loader(list(examples), read, {}, "raise")(i) for i in range(len(examples))
    ]
    batch = stack(load(example, both))["image"]
    assert batch["pixels"].shape == (2, 2, 8, 8, 3)
    assert batch["tiles"].tolist() == [[True, False], [True, True]]
    assert batch["pixels"][..., 0, 0, 0].tolist() == [[10, 0], [10, 20]]
    with pytest.raises(DataError, match=r"3 pictures, but data\.image\.pictures=2: raise it"):
        read.several([grey(0)] * 3, None)
    for wrong in (dict(pictures=0), dict(pictures=2, fit="tiles", longest=16)):
        with pytest.raises(ValueError, match="at least one picture, all of one size"):
            InputReader(size=8, **wrong)
