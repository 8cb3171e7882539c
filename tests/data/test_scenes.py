"""The built-in data set as a source: determinism, splits, pictures, vocabulary, speed."""

import json
import pickle
import time

import numpy as np
import pytest

from vlm_jax.data.scene_graph import HELD_OUT
from vlm_jax.data.scenes import LENGTHS, Scenes, answers, parse_caption, render, words
from vlm_jax.data.schema import Source, validate


def texts(example):
    """All that is said about an example."""
    return [*example["captions"], *(question["question"] for question in example["questions"])]


def comparable(example):
    """An example with its picture rendered."""
    return {**example, "image": example["image"]().tolist()}


def test_it_is_a_source_of_valid_examples():
    source = Scenes("val", size=48, length=5)
    assert isinstance(source, Source)
    assert (len(source), source.name) == (5, "scenes/val")
    for example in source:
        validate(example, source.name)
        image = example["image"]()
        assert image.dtype == np.uint8 and image.shape == (48, 48, 3)
        assert len(example["captions"]) == 4 and len(example["questions"]) == 6
        assert json.loads(json.dumps(example["scene"])) == example["scene"]
    assert {split: len(Scenes(split)) for split in LENGTHS} == LENGTHS


def test_an_example_depends_on_seed_split_and_position_alone():
    again = [comparable(Scenes(length=n)[7]) for n in (8, 1000)]
    assert again[0] == again[1] == comparable(Scenes()[np.int64(7)])
    others = [Scenes()[8], Scenes("test")[7], Scenes(seed=1)[7]]
    assert all(comparable(other)["image"] != again[0]["image"] for other in others)


def test_the_number_of_texts_changes_neither_the_picture_nor_the_other_texts():
    many, few = Scenes()[3], Scenes(captions=2, questions=0)[3]
    assert many["captions"][:2] == few["captions"]
    assert np.array_equal(many["image"](), few["image"]())


def test_the_lazy_picture_survives_the_way_to_another_process():
    example = Scenes()[2]
    travelled = pickle.loads(pickle.dumps(example["image"]))  # noqa: S301
    assert np.array_equal(example["image"](), travelled())


def test_splits_share_neither_ids_nor_pictures():
    seen = [
        (example["id"], example["image"]().tobytes())
        for split in LENGTHS
        for example in Scenes(split, length=200)
    ]
    ids, pictures = zip(*seen, strict=True)
    assert len(set(ids)) == len(set(pictures)) == 4 * 200


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_held_out_pairs_are_neither_shown_nor_named(split):
    for example in Scenes(split, length=400):
        shown = {(o["colour"], o["shape"]) for o in example["scene"]["objects"]}
        named = set().union(*(parse_caption(text) for text in texts(example)))
        assert not (shown | named) & HELD_OUT


def test_every_compositional_test_scene_shows_and_names_a_held_out_pair():
    for example in Scenes("test_comp", length=300):
        shown = {(o["colour"], o["shape"]) for o in example["scene"]["objects"]}
        assert shown & HELD_OUT
        assert all(parse_caption(text) == shown for text in example["captions"])


@pytest.mark.parametrize("size", [32, 64, 96])
def test_each_box_holds_its_colour_and_the_rest_is_background(size):
    for example in Scenes(size=size, length=60):
        pixels, scene = example["image"]().astype(int), example["scene"]
        outside = np.ones((size, size), bool)
        for o in scene["objects"]:
            x0, y0, x1, y1 = o["box"]
            rows = slice(max(0, int(y0) - 1), int(np.ceil(y1)) + 1)
            columns = slice(max(0, int(x0) - 1), int(np.ceil(x1)) + 1)
            outside[rows, columns] = False
            near = np.abs(pixels[rows, columns] - o["rgb"]).max(axis=-1) < 60
            assert near.sum() >= max(3, 0.1 * (x1 - x0) * (y1 - y0)), (o, size)
            foreign = np.abs(pixels[rows, columns] - scene["background"]).max(axis=-1) > 25
            ys, xs = np.nonzero(foreign)
            assert abs(ys.min() + rows.start - y0) < 2 and abs(ys.max() + rows.start + 1 - y1) < 2
            assert abs(xs.min() + columns.start - x0) < 2
            assert abs(xs.max() + columns.start + 1 - x1) < 2
        assert np.abs(pixels[outside] - scene["background"]).max() <= 6


def test_pixels_are_noisy_and_rings_are_hollow():
    scene = {"size": 64, "background": [100, 100, 100]}
    ring = {"shape": "ring", "centre": [32, 32], "radius": 9.0, "angle": 0.0, "rgb": [200, 30, 30]}
    picture = render(scene | {"objects": [ring | {"box": [23, 23, 41, 41]}]}, 0)
    assert np.abs(picture[32, 32].astype(int) - 100).max() <= 6
    assert picture[32, 24:27, 0].min() > 150
    assert len(np.unique(picture[:20])) > 8


def test_paper_can_be_even():
    noisy, even = Scenes("test", 32), Scenes("test", 32, noise=0)
    assert noisy[3]["captions"] == even[3]["captions"]
    pictures = noisy[3]["image"](), even[3]["image"]()
    assert np.all(pictures[1][0, 0] == even[3]["scene"]["background"])
    assert 0 < np.abs(np.subtract(*pictures, dtype=int)).max() <= 6
    with pytest.raises(ValueError, match="noise=65"):
        Scenes("test", 32, noise=65)


def test_paper_can_be_white():
    own, white = Scenes("test", 32, noise=0), Scenes("test", 32, noise=0, paper=255)
    assert own[3]["captions"] == white[3]["captions"]
    assert white[3]["scene"]["background"] == [255] * 3
    away = white[3]["image"]() != 255
    assert not away[0, 0].any()
    assert 0.01 < away.mean() < 0.5
    with pytest.raises(ValueError, match="paper=100"):
        Scenes("test", 32, paper=100)


def test_the_vocabularies_are_exactly_what_is_used():
    used, answered = set(), set()
    for split in ("train", "test_comp"):
        for example in Scenes(split, length=1500, objects=(1, 6)):
            used |= {word for text in texts(example) for word in text.split()}
            answered |= {a for question in example["questions"] for a in question["answers"]}
    assert answered == set(answers())
    assert used | answered == set(words())
    for vocabulary in (answers(), words()):
        assert vocabulary == sorted(set(vocabulary))
        assert all(word.isalpha() and word.islower() for word in vocabulary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split 'dev' must be one of train, val, test, test_comp"),
        ({"size": 16}, "size=16 must be at least 32"),
        ({"length": 0}, "length=0 must be at least 1"),
        ({"objects": (0, 4)}, "objects=(0, 4) must be"),
        ({"objects": (3, 2)}, "objects=(3, 2) must be"),
        ({"objects": (1, 7)}, r"in [1, 6]"),
        ({"questions": 17}, "questions=17"),
        ({"captions": 9}, "captions=9"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match="^Scenes: ") as error:
        Scenes(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("index", [-1, 5])
def test_positions_outside_are_refused(index):
    with pytest.raises(IndexError, match=r"outside \[0, 5\) of scenes/test"):
        Scenes("test", length=5)[index]


def test_speed():
    examples = [Scenes()[i] for i in range(200)]
    start = time.process_time()
    for example in examples:
        example["image"]()
    rate = len(examples) / (time.process_time() - start)
    print(f"rendered {rate:.0f} images of 64 pixels per second")
    assert rate > 400  # an idle core does ten times more
