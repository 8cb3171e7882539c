"""The built-in clips: determinism, motion as it is told, and a middle that tells none."""

import json
import pickle
import time
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from vlm_jax.data.moving_scenes import LENGTHS, MovingScenes, kinds, moved
from vlm_jax.data.moving_texts import STEPS
from vlm_jax.data.scene_graph import HELD_OUT
from vlm_jax.data.schema import Source, Video, validate

TIMES = [(i + 0.5) / 6 for i in range(6)]


@lru_cache
def clips(count=1500):
    return [MovingScenes("train", length=count)[i] for i in range(count)]


def objects():
    """Every object of the clips."""
    return [thing for clip in clips() for thing in clip["scene"]["objects"]]


def test_it_is_a_source_of_valid_examples():
    source = MovingScenes("val", size=48, length=4)
    assert isinstance(source, Source)
    assert (len(source), source.name) == (4, "moving_scenes/val")
    for example in source:
        validate(example, source.name)
        assert isinstance(example["image"], Video)
        frames = list(example["image"].frames(6))
        assert len(frames) == 6
        assert all(frame.dtype == np.uint8 and frame.shape == (48, 48, 3) for frame in frames)
        assert len(example["captions"]) == 2 and len(example["questions"]) == 4
        assert json.loads(json.dumps(example["scene"])) == example["scene"]
    assert {split: len(MovingScenes(split)) for split in LENGTHS} == LENGTHS
    with pytest.raises(IndexError, match=r"outside \[0, 4\) of"):
        source[4]


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(split="tset"), dict(size=8), dict(length=0), dict(questions=7), dict(captions=5)),
        *(dict(families=()), dict(families=("speed",)), dict(seed=-1)),
    ],
)
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MovingScenes(**wrong)


def test_an_example_depends_on_seed_split_and_position_alone():
    def comparable(example):
        return {**example, "image": np.stack(list(example["image"].frames(3))).tolist()}

    again = [comparable(MovingScenes(length=n)[7]) for n in (8, 1000)]
    assert again[0] == again[1] == comparable(MovingScenes()[np.int64(7)])
    others = [MovingScenes()[8], MovingScenes("test")[7], MovingScenes(seed=1)[7]]
    assert all(comparable(other)["image"] != again[0]["image"] for other in others)
    travelled = pickle.loads(pickle.dumps(MovingScenes()[7]["image"]))  # noqa: S301
    assert np.array_equal(next(travelled.frames(3)), again[0]["image"][0])


def test_the_frame_in_the_middle_is_the_one_of_a_single_frame():
    video = MovingScenes()[3]["image"]
    assert np.array_equal(video(), next(video.frames(1)))


def test_pixels_move_as_the_scene_says():
    """The centre of an object's own colour goes the way of its direction, or stays."""
    found = Counter()
    for clip in MovingScenes("test", size=96, length=40):
        frames = [frame.astype(int) for frame in clip["image"].frames(6)]
        for thing in clip["scene"]["objects"]:
            near = [np.abs(frame - thing["rgb"]).max(axis=-1) < 30 for frame in frames]
            where = [np.argwhere(mask).mean(axis=0)[::-1] for mask in near if mask.any()]
            way = where[-1] - where[0]
            if thing["direction"] == "stay":
                right = np.abs(way).max() < 3
            else:
                step = np.array(STEPS[thing["direction"]])
                right = way @ step > 4
            found[bool(right)] += 1
    assert found[True] >= 0.95 * sum(found.values()), found  # some pass behind others


def test_objects_stay_inside_at_all_times_and_start_apart():
    for clip in clips()[:300]:
        things = clip["scene"]["objects"]
        for thing in things:
            for moment in (0.0, *TIMES, 1.0):
                x0, y0, x1, y1 = moved(thing, moment, 64)["box"]
                assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
        assert np.hypot(*np.subtract(*(thing["centre"] for thing in things))) >= 0.24 * 64
        pairs = {(thing["colour"], thing["shape"]) for thing in things}
        assert not pairs & HELD_OUT and len(pairs) == 2


def guessed(moment):
    """How often the best guess from an object's place at a moment is its direction: learned on one
    half of the clips, scored on the other.
    """
    movers = [thing for thing in objects() if thing["direction"] in STEPS]
    seen = [
        (tuple(int(value // 8) for value in moved(thing, moment, 64)["centre"]), thing["direction"])
        for thing in movers
    ]
    known, asked = seen[::2], seen[1::2]
    best = {}
    for place in {place for place, _ in known}:
        ways = Counter(way for other, way in known if other == place)
        best[place] = ways.most_common(1)[0][0]
    return np.mean([best.get(place, "left") == way for place, way in asked])


def test_where_an_object_is_in_the_middle_tells_nothing_about_its_way():
    assert guessed(0.5) < 0.29
    assert guessed(TIMES[0]) > 0.35  # the measure finds what the first frame does tell


def test_regions_are_those_of_the_middle():
    clip = clips()[5]
    for region, thing in zip(clip["regions"], clip["scene"]["objects"], strict=True):
        assert region["box"] == [side / 64 for side in moved(thing, 0.5, 64)["box"]]
        assert all(region["labels"][kind] in words for kind, words in kinds().items())


def test_a_clip_is_rendered_in_milliseconds():
    source, start = MovingScenes(), time.perf_counter()
    for i in range(20):
        list(source[i]["image"].frames(6))
    assert (time.perf_counter() - start) / 20 < 0.1
