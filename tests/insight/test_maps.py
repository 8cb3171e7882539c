import numpy as np
import pytest
from PIL import Image

from vlm_jax.insight import maps


@pytest.mark.parametrize(
    ("tokens", "height", "width", "expected"),
    [
        (64, 128, 128, (8, 8)),
        (98, 140, 280, (7, 14)),
        (1, 32, 32, (1, 1)),
        (6, 200, 300, (2, 3)),
        (32, 32, 128, (1, 32)),
    ],
)
def test_tokens_lie_in_a_grid(tokens, height, width, expected):
    assert maps.grid(tokens, height, width) == expected


def test_tokens_that_fill_no_grid_are_refused():
    with pytest.raises(ValueError, match="13 tokens do not lie in a grid over 64 x 64"):
        maps.grid(13, 64, 64)


@pytest.mark.parametrize("first", [(), (9.0,)], ids=["patches", "a class token in front"])
def test_the_hottest_token_is_hottest_in_the_picture(first):
    shares = np.zeros(16)
    shares[6] = 0.5  # row 1, column 2
    heat = maps.heat(np.concatenate([first, shares]), 32, 32)
    assert heat.shape == (32, 32) and heat.max() == 1 and heat.min() == 0
    assert np.all(heat[11:13, 19:21] > 0.9) and heat[:4].max() == 0


def test_pixels_are_smoothed_without_their_sign():
    shares = np.zeros((64, 64))
    shares[10, 50] = -3.0
    shares[40, 20] = 1.0
    heat = maps.heat(shares, 64, 64)
    assert np.unravel_index(heat.argmax(), heat.shape) == (10, 50)
    assert heat[40, 20] == pytest.approx(1 / 3, abs=1e-3) and 0 < heat[12, 50] < 1


def test_nothing_is_hot_where_nothing_counts():
    assert not maps.heat(np.zeros(16), 32, 32).any()


def test_an_overlay_is_warm_where_it_is_hot(tmp_path):
    picture = np.full((32, 48, 3), 128, np.uint8)
    heat = np.zeros((32, 48), np.float32)
    heat[:, 30:] = 1.0
    drawn = maps.overlay(picture, heat)
    assert drawn.shape == (176, 264, 3)
    cold, hot = drawn[:, :100].mean((0, 1)), drawn[:, -60:].mean((0, 1))
    assert hot[0] > 200 > 130 > cold[0] and hot[0] - hot[2] > 60
    maps.save(tmp_path / "a" / "b.png", drawn)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "b.png")), drawn)
