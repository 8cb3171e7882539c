"""Augmentation: made again by the same generator, off by default, and never outside its ranges."""

import numpy as np
import pytest
from PIL import Image

from vlm_jax.data.augment import COLOUR_OPS, GEOMETRIC_OPS, Augment, swap_sides

OPS = COLOUR_OPS | GEOMETRIC_OPS
ALL = Augment(
    crop_scale=(0.3, 1.0),
    flip="swap_words",
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    randaugment=2,
    geometric=True,
)


def picture(height=24, width=36, seed=0):
    """A smooth picture that is not symmetric, u8[height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def test_the_same_generator_makes_the_same_pixels_and_leaves_the_input_alone():
    pixels = picture()
    kept = pixels.copy()
    results = [ALL(pixels, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert not np.array_equal(results[0][0], results[2][0])
    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize(
    "augment",
    [Augment(), Augment(randaugment=0, magnitude=10, geometric=True, crop_ratio=(0.5, 2.0))],
)
def test_the_defaults_change_nothing(augment):
    pixels = picture()
    result, flipped = augment(pixels, np.random.default_rng(0))
    assert np.array_equal(result, pixels)
    assert flipped is False


def test_every_setting_keeps_bytes_in_three_channels():
    for seed in range(40):
        result, flipped = ALL(picture(seed=seed), np.random.default_rng(seed))
        assert result.dtype == np.uint8
        assert result.ndim == 3 and result.shape[-1] == 3 and result.size
        assert isinstance(flipped, bool)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3)])
def test_tiny_pictures(shape):
    for seed in range(10):
        ALL(picture(*shape), np.random.default_rng(seed))


def test_mirroring_is_an_involution_half_of_the_time_and_reported_for_texts():
    pixels, counts = picture(), {"plain": 0, "swap_words": 0}
    for flip in counts:
        for seed in range(200):
            result, swap = Augment(flip=flip)(pixels, np.random.default_rng(seed))
            mirrored = np.array_equal(result, pixels[:, ::-1])
            assert mirrored or np.array_equal(result, pixels)
            assert swap == (mirrored and flip == "swap_words")
            again, _ = Augment(flip=flip)(result, np.random.default_rng(seed))
            assert np.array_equal(again, pixels)
            counts[flip] += mirrored
    assert all(70 < count < 130 for count in counts.values())


def test_crops_keep_the_share_and_the_proportions_asked_for():
    pixels = picture(120, 180)
    crop = Augment(crop_scale=(0.25, 0.5), crop_ratio=(0.8, 1.25))
    shares, ratios, corners = [], [], set()
    for seed in range(200):
        result, _ = crop(pixels, np.random.default_rng(seed))
        height, width = result.shape[:2]
        shares.append(height * width / pixels[..., 0].size)
        ratios.append((width / height) / 1.5)
        corners.add(result[0, 0].tobytes())
    assert 0.24 < min(shares) < 0.28 and 0.47 < max(shares) < 0.51
    assert 0.78 < min(ratios) < 0.85 and 1.18 < max(ratios) < 1.28
    assert len(corners) > 100


def test_a_crop_is_a_part_of_the_picture():
    pixels = np.arange(20 * 30, dtype=np.uint16).view(np.uint8).reshape(20, 30, 2)
    pixels = np.concatenate([pixels, np.zeros((20, 30, 1), np.uint8)], axis=-1)  # all different
    for seed in range(30):
        part, _ = Augment(crop_scale=(0.1, 0.6))(pixels, np.random.default_rng(seed))
        ((top, left),) = np.argwhere((pixels == part[0, 0]).all(axis=-1))
        height, width = part.shape[:2]
        assert np.array_equal(part, pixels[top : top + height, left : left + width])


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_does_nothing_at_strength_0_and_something_at_full_strength(name):
    image = Image.fromarray(picture())
    assert np.array_equal(OPS[name](image, 0.0), image)
    for strength in (-1.0, 1.0):
        changed = OPS[name](image, strength)
        assert (changed.size, changed.mode) == (image.size, "RGB")
        assert not np.array_equal(changed, image)


@pytest.mark.parametrize("name", sorted(GEOMETRIC_OPS))
def test_geometric_ops_keep_a_flat_grey_picture(name):
    grey = Image.new("RGB", (20, 14), (128, 128, 128))
    assert np.array_equal(GEOMETRIC_OPS[name](grey, 0.8), grey)


def test_geometric_ops_are_left_out_unless_asked_for():
    row = np.zeros((32, 32, 3), np.uint8)
    row[:, 16:] = (200, 120, 40)
    moved = {False: 0, True: 0}
    for geometric in moved:
        augment = Augment(randaugment=2, magnitude=10, geometric=geometric)
        for seed in range(60):
            result, _ = augment(row, np.random.default_rng(seed))
            inside = result[4:-4]  # sharpening leaves the border as it is
            moved[geometric] += not (inside == inside[0]).all()
    assert moved[False] == 0
    assert moved[True] > 10


def test_jitter_keeps_to_its_range():
    grey = np.full((4, 4, 3), 100, np.uint8)
    values = [
        int(Augment(brightness=0.3)(grey, np.random.default_rng(seed))[0].max())
        for seed in range(300)
    ]
    assert 70 <= min(values) < 75 and 125 < max(values) <= 130


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a circle to the left of a ring", "a circle to the right of a ring"),
        ("Left is not RIGHT.", "Right is not LEFT."),
        ("the leftmost, bright and leftover one", "the rightmost, bright and leftover one"),
        ("above the square", "above the square"),
        ("", ""),
    ],
)
def test_sides_are_exchanged_as_whole_words_and_back(text, swapped):
    assert swap_sides(text) == swapped
    assert swap_sides(swapped) == text


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.5)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (0.0, 1.0)},
        {"flip": "on"},
        {"brightness": -0.1},
        {"saturation": 1.5},
        {"randaugment": -1},
        {"magnitude": 11},
    ],
)
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augment(**options)
