"""Scenes as graphs: what is drawn, where it may lie, and how an object is told from the others."""

from itertools import combinations

import numpy as np
import pytest

from vlm_jax.data.scene_graph import (
    COLOURS,
    GRID,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    noun,
    references,
    related,
    sample_scene,
)


def scene(seed, size=64, objects=(1, 6), held_out=False):
    return sample_scene(np.random.default_rng(seed), size, objects, held_out)


def thing(size, colour, shape, box=(0, 0, 1, 1)):
    return {"size": size, "colour": colour, "shape": shape, "box": list(box)}


def test_colours_are_far_apart_and_far_from_grey():
    values = np.array(list(COLOURS.values()), float)
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(values, 2))
    assert nearest > 85
    assert (values.max(axis=1) - values.min(axis=1)).min() > 90


def test_each_colour_and_each_shape_is_seen_in_training_with_others():
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert len({colour for colour, _ in HELD_OUT}) == len(HELD_OUT) == 6


def test_objects_are_inside_the_image_in_cells_of_their_own_and_all_different():
    for seed in range(300):
        objects = scene(seed)["objects"]
        assert 1 <= len(objects) <= 6
        cells = {tuple(int(GRID * value / 64) for value in o["centre"]) for o in objects}
        assert len(cells) == len(objects)
        assert len({(o["size"], o["colour"], o["shape"]) for o in objects}) == len(objects)
        for o in objects:
            column, row = (int(GRID * value / 64) for value in o["centre"])
            x0, y0, x1, y1 = (GRID * value / 64 for value in o["box"])
            assert column <= x0 < x1 <= column + 1
            assert row <= y0 < y1 <= row + 1


def test_small_and_large_do_not_meet():
    longest = {"small": [], "large": []}
    for seed in range(300):
        for o in scene(seed)["objects"]:
            x0, y0, x1, y1 = o["box"]
            longest[o["size"]].append(max(x1 - x0, y1 - y0))
    assert max(longest["small"]) * 1.2 < min(longest["large"])


def test_held_out_pairs_are_in_every_such_scene_and_in_no_other():
    def pairs(seed, held_out):
        graph = scene(seed, objects=(1, 4), held_out=held_out)
        return {(o["colour"], o["shape"]) for o in graph["objects"]}

    assert all(pairs(seed, True) & HELD_OUT for seed in range(300))
    assert not any(pairs(seed, False) & HELD_OUT for seed in range(300))


def test_the_same_scene_at_another_size_is_the_same_scene_scaled():
    small, large = scene(5, size=64), scene(5, size=128)
    for a, b in zip(small["objects"], large["objects"], strict=True):
        assert (a["colour"], a["shape"], a["size"]) == (b["colour"], b["shape"], b["size"])
        assert np.allclose(np.array(a["box"]) * 2, b["box"], atol=0.02)


def test_relations_between_boxes():
    left, right = thing("small", "red", "ring", (0, 0, 4, 4)), thing("small", "red", "star")
    right["box"] = [4, 2, 8, 6]
    assert related(left, "left of", right) and related(right, "right of", left)
    assert not related(right, "left of", left)
    assert not related(left, "above", right)  # the boxes share rows 2 to 4
    assert all(RELATIONS[RELATIONS[name]] == name for name in RELATIONS)


@pytest.mark.parametrize(
    ("attributes", "plural", "expected"),
    [
        ({}, False, "object"),
        ({"colour": "red"}, True, "red objects"),
        ({"shape": "cross"}, True, "crosses"),
        ({"shape": "ring", "size": "small", "colour": "blue"}, False, "small blue ring"),
    ],
)
def test_noun(attributes, plural, expected):
    assert noun(attributes, plural) == expected


def test_references_fit_one_object_only():
    objects = [thing("large", "red", "circle"), thing("small", "red", "square")]
    objects.append(thing("small", "blue", "square"))
    assert set(references(objects, objects[1])) == {"small red object", "red square"} | {
        "small red square"
    }
    assert references(objects, objects[1], hide="colour") == []
    assert set(references(objects, objects[0], hide="colour")) == {
        "large object",
        "circle",
        "large circle",
    }
    assert "object" in references(objects[:1], objects[0])
