"""The parser against scenes that are known, and what it calls no shape."""

import functools
from collections import Counter

import numpy as np
import pytest

from vlm_jax.data.scene_parser import BLOB, components, parse_scene
from vlm_jax.data.scenes import Scenes

ATTRIBUTES = ("size", "colour", "shape")


def described(objects):
    return Counter(tuple(thing[key] for key in ATTRIBUTES) for thing in objects)


@functools.lru_cache
def scenes(split, size=64, objects=(1, 3), length=60):
    """(picture, objects) of each scene."""
    source = Scenes(split, size, length, objects, questions=0)
    return [(example["image"](), example["scene"]["objects"]) for example in source]


@pytest.mark.parametrize(
    ("split", "size", "objects"),
    [("test", 64, (1, 3)), ("test_comp", 64, (4, 6)), ("val", 96, (1, 3))],
)
def test_true_scenes_are_read_without_fail(split, size, objects):
    pairs = scenes(split, size, objects, 40)
    right = [described(parse_scene(picture)) == described(true) for picture, true in pairs]
    assert np.mean(right) == 1.0


def test_places_and_sizes_are_within_half_a_pixel():
    for picture, true in scenes("test"):
        order = lambda thing: (thing["colour"], thing["shape"], thing["size"])
        for found, thing in zip(
            sorted(parse_scene(picture), key=order), sorted(true, key=order), strict=True
        ):
            np.testing.assert_allclose(found["centre"], thing["centre"], atol=0.5)
            np.testing.assert_allclose(found["box"], thing["box"], atol=1.2)
            assert abs(found["radius"] - thing["radius"]) < 0.4 and found["fit"] > 0.85


def test_what_is_no_shape_is_a_blob_and_noise_is_nothing():
    rng = np.random.default_rng(0)
    paper = np.full((64, 64, 3), 225) + rng.integers(-6, 7, (64, 64, 3))
    assert parse_scene(paper.astype(np.uint8)) == []
    stroke = paper.copy()
    stroke[30:33, 5:60] = (214, 36, 40)
    (found,) = parse_scene(stroke.astype(np.uint8))
    assert found["shape"] == BLOB and found["colour"] == "red"
    speck = paper.copy()
    speck[3:5, 3:5] = 0
    assert parse_scene(speck.astype(np.uint8)) == []
    with pytest.raises(ValueError, match="u8"):
        parse_scene(paper[:40].astype(np.uint8))


def test_components_touch_over_corners():
    mask = np.zeros((9, 9), bool)
    mask[:4, :4] = mask[4:, 4:] = True
    assert [part.sum() for part in components(mask)] == [41]
    mask[4, 4] = False
    assert sorted(part.sum() for part in components(mask)) == [16, 24]
