"""Pictures that keep their proportions, as arrays whose shapes do not depend on the picture, or on
little of it: on a canvas, cut into patches, cut into tiles.

Each function returns what `VisionLanguageModel.encode_image` reads: `pixels` uint8, and by name
what else the vision encoder takes. Sizes and roundings are those of the published preprocessors.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vlm_jax.data.images import resize
from vlm_jax.data.picture_words import rounded
from vlm_jax.data.schema import DataError

Cut = Mapping[str, np.ndarray]

MOST_SIDE = 4096
"""No side of a picture that is cut into tiles is longer."""

MOST_RATIO = 200
"""Of the sides of a picture that is cut into patches at its own size."""


def canvas(
    pixels: np.ndarray, patch: int, shortest: int, longest: int, block: int, method: str
) -> Cut:
    """The picture in the upper left of black, pixels uint8[C, C, 3] with C = `longest`, rounded
    down; mask: bool[S], which of its patches, in row-major order, show the picture.

    The shortest side is scaled to `shortest`, or the longest to `longest` if that is less, and both
    rounded down to multiples of patch * block (ViLT, arXiv:2102.03334, section 4.2).
    """
    unit = patch * block
    height, width = pixels.shape[:2]
    scale = shortest / min(height, width)
    sides = (scale * height, scale * width)
    if max(sides) > longest:
        scale = longest / max(sides)
        sides = (scale * sides[0], scale * sides[1])
    height, width = (max(unit, int(side + 0.5) // unit * unit) for side in sides)
    side = longest // unit * unit
    ground = np.zeros((side, side, 3), np.uint8)
    ground[:height, :width] = resize(pixels, height, width, method)
    real = np.zeros((side // patch, side // patch), bool)
    real[: height // patch, : width // patch] = True
    return {"pixels": ground, "mask": real.reshape(-1)}


def at_most(pixels: np.ndarray, patch: int, most: int, method: str) -> Cut:
    """At most `most` patches of the picture at nearly its proportions: pixels uint8[most, P],
    mask bool[most], and shapes i32[2], rows and columns (NaFlex, arXiv:2502.14786, section 2.4).
    """
    height, width = pixels.shape[:2]
    rows, columns = _most_patches(height, width, patch, most)
    scaled = resize(pixels, rows * patch, columns * patch, method)
    flat = _patches(scaled, patch, 1)
    padded = np.zeros((most, flat.shape[1]), np.uint8)
    padded[: len(flat)] = flat
    shapes = np.array([rows, columns], np.int32)
    return {"pixels": padded, "mask": np.arange(most) < len(flat), "shapes": shapes}


def _most_patches(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Rows and columns at the largest scale for which they are not too many, found by halving an
    interval until it is 1e-5 wide.
    """
    count = lambda scale, side: max(1, math.ceil(side * scale / patch))
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        fits = count(middle, height) * count(middle, width) <= most
        low, high = (middle, high) if fits else (low, middle)
    return count(low, height), count(low, width)


def native(pixels: np.ndarray, patch: int, block: int, least: int, most: int, method: str) -> Cut:
    """All patches of the picture at its own size, if it has between `least` and `most` pixels, with
    sides rounded to multiples of patch * block (Qwen2-VL, arXiv:2409.12191, section 2.1).

    pixels: uint8[S, P] in the order of blocks; places: i32[S, 3], frame, row and column; segments:
    i32[S], 1 or, beyond the last patch, 0; grid: i32[2], rows and columns of blocks. S is rounded
    up, so that pictures of many sizes make few shapes. DataError for a picture that is too narrow.
    """
    return clip([pixels], patch, block, method, least=least, most=most, depth=1)


def clip(
    frames: Sequence[np.ndarray],
    patch: int,
    block: int,
    method: str,
    *,
    least: int,
    most: int,
    depth: int,
    tokens: int | None = None,
) -> Cut:
    """As `native`, of the frames uint8[H, W, 3] of a video, `depth` of them in each patch, one
    behind the other; the last is repeated to fill up.

    least, most: pixels of each frame. tokens: a model's context, of which nine tenths are shared
    evenly by the frames, where that is less than `most` for each. segments: which patches are of
    the same frames, from 1; rows of the grid: those of all frames, one below the other.
    """
    height, width = frames[0].shape[:2]
    unit = patch * block
    if tokens is not None:
        share = int(tokens * unit**2 * 0.9) * depth // len(frames)
        most = max(min(most, share), int(1.05 * least))
    height, width = _native_size(height, width, unit, least, most)
    frames = [*frames, *[frames[-1]] * (-len(frames) % depth)]
    cut = np.stack([_patches(resize(x, height, width, method), patch, block) for x in frames])
    _, each, numbers = cut.shape
    times = len(frames) // depth
    flat = cut.reshape(times, depth, each, numbers).swapaxes(1, 2).reshape(times * each, -1)
    rows, columns = height // patch, width // patch
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    inside = (rows // block, block, columns // block, block, 2)
    order = grid.reshape(inside).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    count = rounded(len(flat) // block**2) * block**2
    padded = np.zeros((count, flat.shape[1]), np.uint8)
    places, segments = np.zeros((count, 3), np.int32), np.zeros(count, np.int32)
    padded[: len(flat)], places[: len(flat), 1:] = flat, np.tile(order, (times, 1))
    places[: len(flat), 0] = np.repeat(np.arange(times), each)
    segments[: len(flat)] = places[: len(flat), 0] + 1
    blocks = np.array([times * (rows // block), columns // block], np.int32)
    return {"pixels": padded, "places": places, "segments": segments, "grid": blocks}


def _native_size(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    ratio = max(height, width) / min(height, width)
    if ratio > MOST_RATIO:
        raise DataError(
            f"a picture of {height} x {width} pixels has a side {ratio:.0f} times as long as the "
            f"other, more than {MOST_RATIO}: cut it"
        )
    tall, wide = (round(side / unit) * unit for side in (height, width))
    if tall * wide > most:
        scale = math.sqrt(height * width / most)
        tall, wide = (max(unit, int(side / scale / unit) * unit) for side in (height, width))
    elif tall * wide < least:
        scale = math.sqrt(least / (height * width))
        tall, wide = (math.ceil(side * scale / unit) * unit for side in (height, width))
    return tall, wide


def tiles(pixels: np.ndarray, side: int, longest: int, split: bool, method: str) -> Cut:
    """Square tiles of the picture in row-major order, and the whole picture squeezed into one more:
    pixels uint8[N, side, side, 3], tiles bool[N], all True, grid i32[2], rows and columns of tiles
    (Idefics3, arXiv:2408.12637, section 3.1).

    The longest side is scaled to `longest`, then both up to multiples of `side`. Without `split`,
    and for pictures that fit one tile, the whole picture is all there is, and the grid (0, 0).
    """
    height, width = _longest(pixels.shape[0], pixels.shape[1], longest)
    scaled = resize(pixels, height, width, method)
    rows = columns = 0
    cut = []
    if split:
        height, width = _whole_tiles(height, width, side)
        scaled = resize(scaled, height, width, method)
        if max(height, width) > side:
            rows, columns = height // side, width // side
            parts = scaled.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
            cut = list(parts.reshape(-1, side, side, 3))
    cut.append(resize(scaled, side, side, method))
    grid = np.array([rows, columns], np.int32)
    return {"pixels": np.stack(cut), "tiles": np.ones(len(cut), bool), "grid": grid}


def crops(
    pixels: np.ndarray, side: int, method: str, *, least: int, most: int, ratio: float
) -> Cut:
    """The whole picture as a square, then parts of it side by side along its longer side, one below
    the other in pixels uint8[N, side, side, 3]; tiles bool[N], all True; grid i32[2], rows and
    columns of the parts (pan and scan of Gemma 3, arXiv:2503.19786, section 2.1).

    As many parts as the longer side is times as long as the other, rounded, between 2 and `most`.
    Without them, and with the grid (0, 0), pictures of a lower ratio than `ratio`, and those whose
    parts would have a side below `least` pixels.
    """
    height, width = pixels.shape[:2]
    longer, shorter = max(height, width), min(height, width)
    count = min(most, max(2, min(longer // least, math.floor(longer / shorter + 0.5))))
    length = math.ceil(longer / count)
    if longer / shorter < ratio or min(length, shorter) < least:
        count = 0
    spans = [slice(start * length, (start + 1) * length) for start in range(count)]
    wide = width >= height
    cut = [pixels[:, span] if wide else pixels[span] for span in spans]
    grid = np.array([min(count, 1), count] if wide else [count, min(count, 1)], np.int32)
    squares = [resize(np.ascontiguousarray(x), side, side, method) for x in (pixels, *cut)]
    return {"pixels": np.stack(squares), "tiles": np.ones(len(squares), bool), "grid": grid}


def _longest(height: int, width: int, longest: int) -> tuple[int, int]:
    """Both sides with the longest one as given, the other one even, and no side above MOST_SIDE."""
    ratio = width / height
    other = int(longest / ratio) if width >= height else int(longest * ratio)
    other = max(1, other + other % 2)
    height, width = (other, longest) if width >= height else (longest, other)
    if max(height, width) > MOST_SIDE:
        ratio = width / height
        if width >= height:
            return max(1, int(MOST_SIDE / ratio)), MOST_SIDE
        return MOST_SIDE, max(1, int(MOST_SIDE * ratio))
    return height, width


def _whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """The next multiples of `side`: of the longer side, then of the other at the same ratio."""
    up = lambda length: math.ceil(length / side) * side
    ratio = width / height
    if width >= height:
        return up(int(up(width) / ratio)), up(width)
    return up(height), up(int(up(height) * ratio))


def regions(features: np.ndarray, most: int = 0) -> Cut:
    """Features f32[R, D] of regions, or f32[D] of one, as pixels f32[N, D] and mask bool[N], which
    are real: N is R, or `most` where that is given. DataError for no region, or too many.
    """
    found = np.atleast_2d(features)
    count = len(found)
    if found.ndim != 2 or not count or count > (most or count):
        limit = f"between 1 and {most}" if most else "at least 1"
        raise DataError(
            f"features of regions are f32[regions, D], {limit} of them (data.image.most), these "
            f"are {list(features.shape)}"
        )
    filled = np.pad(found, ((0, max(most - count, 0)), (0, 0)))
    return {"pixels": filled, "mask": np.arange(len(filled)) < count}


def _patches(pixels: np.ndarray, patch: int, block: int) -> np.ndarray:
    """uint8[S, patch * patch * 3] of uint8[H, W, 3], in row-major order of blocks and within."""
    rows, columns = (side // patch // block for side in pixels.shape[:2])
    cut = pixels.reshape(rows, block, patch, columns, block, patch, 3)
    return cut.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, patch * patch * 3)
