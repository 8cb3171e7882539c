"""Words lie inside their picture, letters inside their boxes, and the same seed draws the same."""

import numpy as np
import pytest

from vlm_jax.data.lettering import Lettering, Placed, broken, paint
from vlm_jax.data.schema import DataError


def placed(text, seed, **fields):
    return Lettering(**fields).place(text, "dejavu sans", np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("text", "count", "lines"),
    [
        ("one two three", 1, ["one two three"]),
        ("one two three", 2, ["one two", "three"]),
        ("elephant in a room", 2, ["elephant", "in a room"]),
        ("a b c", 3, ["a", "b", "c"]),
    ],
)
def test_lines(text, count, lines):
    assert broken(text.split(), count) == lines


def ink(place):
    """Where there is ink, bool[H, W]: what differs from the picture's corner by much."""
    pixels = paint(place, 3).astype(int)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    return np.abs(pixels - ground).sum(axis=-1) > 150


@pytest.mark.parametrize("angle", [-10.0, 0.0, 10.0])
def test_ink_lies_in_the_boxes_of_letters_in_reading_order(angle):
    place = Placed(["grey", "heart"], "dejavu sans", (128, 160), 40, angle, (80.0, 64.0))
    letters = place.letters()
    assert "".join(letter for _, letter, _ in letters) == "greyheart"
    assert [number for number, _, _ in letters] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    found, covered = ink(place), np.zeros((128, 160), bool)
    for _, _, box in letters:
        x0, x1 = (round(side * 160) for side in box[::2])
        y0, y1 = (round(side * 128) for side in box[1::2])
        assert found[y0:y1, x0:x1].mean() > 0.1
        covered[y0:y1, max(x0 - 3, 0) : x1 + 3] = True
    assert found[covered].sum() > 0.9 * found.sum()  # g and y go below


def test_a_tilted_line_rises_counter_clockwise():
    place = Placed(["ooo"], "dejavu sans", (96, 96), 30, 15.0, (48, 48))
    boxes = [box for _, _, box in place.letters()]
    assert boxes[0][1] > boxes[1][1] > boxes[2][1] and boxes[0][0] < boxes[2][0]


def test_places_are_random_and_inside():
    for seed in range(100):
        place = placed("grey heart", seed)
        for _, _, (x0, y0, x1, y1) in place.letters():
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        border = ink(place)
        assert border.any() and border[[0, -1]].mean() < 0.1 and border[:, [0, -1]].mean() < 0.1
    assert len({placed("grey heart", seed).em for seed in range(100)}) > 5
    assert {len(placed("an ox", seed).lines) for seed in range(100)} == {1, 2}


def test_a_wide_picture_holds_one_large_line():
    places = [placed("grey heart", seed, size=(32, 128), tilt=5.0, lines=1) for seed in range(50)]
    assert {tuple(place.lines) for place in places} == {("grey heart",)}
    assert min(place.em for place in places) >= 12 and paint(places[0], 3).shape == (32, 128, 3)
    for place in places:
        border = ink(place)
        assert border.any() and border[[0, -1]].mean() < 0.1 and border[:, [0, -1]].mean() < 0.1


def test_the_seed_decides():
    first, again = (paint(placed("grey heart", 1), (0, 1)) for _ in range(2))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != paint(placed("grey heart", 1), (0, 2))).mean() > 0.5


def test_what_does_not_fit_is_an_error():
    assert placed("w" * 12, 0, smallest=4).em >= 4
    with pytest.raises(DataError, match=r"does not fit 64 x 64 pixels.*raise size"):
        placed("w" * 30, 0)
