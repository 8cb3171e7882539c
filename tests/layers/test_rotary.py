"""Rotary angles in one dimension and in three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.rotary import frequencies, image_coordinates, rotary, rotate, section_axes


def test_products_depend_on_distances_alone():
    rates = frequencies(8, 100.0)
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
    turned = [rotate(x, rotary(jnp.arange(5)[None] + start, rates)) for start in (0, 7)]
    products = [jnp.einsum("BTNK,BSNK->BNTS", y, y) for y in turned]
    np.testing.assert_allclose(products[0], products[1], atol=1e-4)
    assert np.abs(turned[0] - turned[1]).max() > 0.1


def test_linear_factor_and_llama_3():
    plain = frequencies(64, 10_000.0)
    np.testing.assert_allclose(frequencies(64, 10_000.0, factor=8.0), plain / 8, rtol=1e-6)
    bands = dict(factor=8.0, low_factor=1.0, high_factor=4.0, original_length=256)
    mixed = frequencies(64, 10_000.0, **bands)
    turns = 256 * plain / (2 * np.pi)
    np.testing.assert_array_equal(mixed[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(mixed[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert np.all((mixed < plain) & (mixed > plain / 8), where=between)


def test_an_odd_head_is_refused():
    with pytest.raises(ValueError, match="head_dim=7 is odd"):
        frequencies(7)


def test_each_pair_turns_with_its_own_coordinate():
    rates, axes = frequencies(8), section_axes((1, 1, 2))
    assert axes == [0, 1, 2, 2]
    assert section_axes((2, 1, 1, 3)) == [0, 0, 1, 2, 0, 0, 0]
    places = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, 9)
    found = rotary(places, rates, axes)
    for pair, axis in enumerate(axes):
        alone = rotary(places[..., axis], rates)
        np.testing.assert_allclose(found.cos[..., pair], alone.cos[..., pair], atol=1e-6)
        np.testing.assert_allclose(found.sin[..., pair], alone.sin[..., pair], atol=1e-6)


def count_on(images, places, real, start):
    """One row, token by token."""
    found, following, longest = [], start, 0
    for number, image in enumerate(images):
        if image:
            found.append([following + place for place in places[number]])
            longest = max(longest, *(place + 1 for place in places[number][1:]))
        else:
            following, longest = following + longest, 0
            found.append([following] * 3)
            following += int(real[number])
    return found


def test_words_and_images_count_on_from_each_other():
    """Two images of 2 x 3 and 3 x 1 between words, padding before and behind."""
    images = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0], bool)
    real = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], bool)
    places = np.zeros((14, 3), np.int32)
    places[2:8] = [[0, row, column] for row in range(2) for column in range(3)]
    places[9:12] = [[0, row, 0] for row in range(3)]
    inputs = [jnp.asarray(x)[None] for x in (places, images, real)]
    found, ahead = image_coordinates(*inputs, jnp.array([5]))
    expected = np.array(count_on(images, places, real, 5))
    np.testing.assert_array_equal(np.asarray(found)[0][real], expected[real])
    assert found[0, 1:3].tolist() == [[5, 5, 5], [6, 6, 6]]
    assert found[0, 8].tolist() == [9, 9, 9]
    assert ahead.tolist() == [14]


def test_what_follows_a_film_stands_behind_its_last_frame():
    """Of more frames than rows, at the end of what was read."""
    places = jnp.array([[[frame, 0, 0] for frame in range(4)]])
    everywhere = jnp.ones((1, 4), bool)
    _, ahead = image_coordinates(places, everywhere, everywhere, jnp.array([2]))
    assert ahead.tolist() == [6]
