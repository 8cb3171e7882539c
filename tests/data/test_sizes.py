"""Pictures that keep their proportions, by worked examples; the published sizes are in
tests/weights/test_preprocessing.py.
"""

import numpy as np
import pytest

from vlm_jax.data import sizes
from vlm_jax.data.schema import DataError

RAMP = np.arange(12 * 18 * 3, dtype=np.int64).reshape(12, 18, 3).astype(np.uint8)


def test_a_canvas_shows_the_picture_in_its_corner():
    made = sizes.canvas(RAMP, patch=2, shortest=6, longest=10, block=1, method="bilinear")
    assert made["pixels"].shape == (10, 10, 3)
    real = made["mask"].reshape(5, 5)
    assert real[:3, :4].all() and real.sum() == 12  # 6 x 9 pixels, rounded down to 6 x 8
    assert made["pixels"][:6, :8].any(axis=-1).sum() > 40 and not made["pixels"][6:].any()
    wide = sizes.canvas(RAMP[:6], patch=2, shortest=6, longest=10, block=1, method="bilinear")
    assert wide["mask"].reshape(5, 5).sum() == 5  # 3.3 x 10: the longest side decides


def test_patches_are_in_row_major_order_and_never_too_many():
    made = sizes.at_most(RAMP, patch=6, most=6, method="nearest")
    assert made["shapes"].tolist() == [2, 3] and made["mask"].all()
    np.testing.assert_array_equal(made["pixels"][1], RAMP[:6, 6:12].reshape(-1))
    fewer = sizes.at_most(RAMP, patch=6, most=5, method="nearest")
    assert fewer["shapes"].prod() <= 5 and fewer["pixels"].shape == (5, 108)
    assert fewer["mask"].sum() == fewer["shapes"].prod()


def test_native_patches_are_in_the_order_of_their_blocks():
    made = sizes.native(RAMP, patch=3, block=2, least=1, most=1000, method="nearest")
    assert made["grid"].tolist() == [2, 3]
    assert made["places"][:6, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]
    np.testing.assert_array_equal(made["pixels"][2], RAMP[3:6, :3].reshape(-1))
    assert made["segments"].sum() == 24 and len(made["segments"]) == 32  # 8 blocks, rounded up


def test_frames_of_a_clip_lie_behind_one_another_in_its_patches():
    frames = [RAMP, 255 - RAMP, RAMP[::-1]]
    sides = dict(patch=3, block=2, method="nearest", least=1, most=1000)
    made = sizes.clip(frames, depth=2, **sides)
    assert made["grid"].tolist() == [4, 3] and made["pixels"].shape[1] == 2 * 27
    alone = [sizes.native(frame, **sides) for frame in frames]
    first, last = made["segments"] == 1, made["segments"] == 2
    assert first.sum() == last.sum() == 24 and (made["places"][last, 0] == 1).all()
    np.testing.assert_array_equal(made["places"][last, 1:], alone[0]["places"][:24, 1:])
    for where, pair in ((first, alone[:2]), (last, [alone[2], alone[2]])):
        expected = np.concatenate([x["pixels"][:24] for x in pair], axis=1)
        np.testing.assert_array_equal(made["pixels"][where], expected)


def test_crops_follow_the_whole_along_the_longer_side():
    cut = lambda pixels, **given: sizes.crops(
        pixels, 4, "nearest", **dict(least=3, most=3, ratio=1.2) | given
    )
    wide = cut(RAMP)
    count = round(RAMP.shape[1] / RAMP.shape[0])
    assert wide["grid"].tolist() == [1, max(2, count)] and wide["tiles"].all()
    tall = cut(RAMP.swapaxes(0, 1))
    assert tall["grid"].tolist() == wide["grid"].tolist()[::-1]
    np.testing.assert_array_equal(tall["pixels"], wide["pixels"].swapaxes(1, 2))
    for other in (dict(ratio=9.0), dict(least=RAMP.shape[0] + 1)):
        alone = cut(RAMP, **other)
        assert alone["grid"].tolist() == [0, 0] and len(alone["pixels"]) == 1


def test_regions_are_filled_up_to_the_most():
    given = np.ones((2, 5), np.float32)
    for most, count in ((0, 2), (2, 2), (4, 4)):
        made = sizes.regions(given, most)
        assert made["pixels"].shape == (count, 5) and made["pixels"].dtype == np.float32
        assert made["mask"].tolist() == [True] * 2 + [False] * (count - 2)
        assert made["pixels"].sum() == 10
    assert sizes.regions(given[0])["pixels"].shape == (1, 5)
    with pytest.raises(DataError, match="between 1 and 1 of them"):
        sizes.regions(given, 1)


def test_native_sizes_lie_between_the_least_and_the_most():
    cut = lambda **given: sizes.native(RAMP, 3, 1, method="nearest", **given)
    count = lambda **given: cut(**given)["segments"].sum() * 9
    assert count(least=500, most=1000) >= 500 and count(least=1, most=100) <= 100
    with pytest.raises(DataError, match="300 times as long as the other, more than 200"):
        sizes.native(np.zeros((1, 300, 3), np.uint8), 3, 1, 1, 1000, "nearest")


def test_tiles_are_followed_by_the_whole_picture():
    made = sizes.tiles(RAMP, side=6, longest=18, split=True, method="nearest")
    assert made["grid"].tolist() == [2, 3] and made["pixels"].shape == (7, 6, 6, 3)
    np.testing.assert_array_equal(made["pixels"][4], RAMP[6:, 6:12])
    whole = sizes.tiles(RAMP, side=6, longest=18, split=False, method="nearest")
    assert whole["grid"].tolist() == [0, 0] and whole["tiles"].tolist() == [True]
    small = sizes.tiles(RAMP, side=6, longest=6, split=True, method="nearest")
    assert small["grid"].tolist() == [0, 0] and len(small["pixels"]) == 1
