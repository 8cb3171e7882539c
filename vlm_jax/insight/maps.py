"""From what an explanation says of tokens or pixels to a heat map over the picture, and a PNG."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIDE = 264
"""Longest side of a drawn picture in pixels; smaller ones are enlarged."""

COLOURS = (
    (0.0, (28, 16, 68)),
    (0.35, (140, 40, 110)),
    (0.7, (240, 110, 50)),
    (1.0, (255, 240, 120)),
)
"""Heat in [0, 1] -> RGB, linear between; lightness grows with heat."""

Heat = Float[np.ndarray, "H W"]


def grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `tokens` cells over a picture of that shape: nearly square ones, or the
    whole columns of a wide picture. ValueError if none fit.

    64, 128, 128 -> 8, 8        98, 140, 280 -> 7, 14        32, 32, 128 -> 1, 32
    """
    rows = round(math.sqrt(tokens * height / width))
    for tried in (rows, rows - 1, rows + 1):
        if tried > 0 and tokens % tried == 0:
            columns = tokens // tried
            if 0.7 < (columns / tried) / (width / height) < 1.4:
                return tried, columns
    if width >= 2 * height and width % tokens == 0:
        return 1, tokens
    raise ValueError(f"{tokens} tokens do not lie in a grid over {height} x {width} pixels")


def heat(
    shares: Float[np.ndarray, "S"] | Float[np.ndarray, "h w"], height: int, width: int
) -> Heat:
    """How much each pixel counts, f32[height, width] in [0, 1], the largest 1 (all 0 if none).

    shares of tokens in row-major order, perhaps with a class token in front, are interpolated
    bilinearly; those of pixels lose their sign and are smoothed by a Gaussian of 1/32 of the side.
    """
    shares = np.asarray(shares, np.float32)
    if shares.ndim == 1:
        try:
            rows, columns = grid(len(shares), height, width)
        except ValueError:
            rows, columns = grid(len(shares) - 1, height, width)
            shares = shares[1:]
        shares = np.maximum(shares.reshape(rows, columns), 0.0)
        found = np.asarray(
            Image.fromarray(shares).resize((width, height), Image.Resampling.BILINEAR)
        )
    else:
        found = _smoothed(np.abs(shares), max(height, width) / 32)
    top = float(found.max())
    return found / top if top > 0 else np.zeros_like(found)


def _smoothed(values: Heat, sigma: float) -> Heat:
    """A Gaussian filter in both directions, edges repeated."""
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if axis == i else (0, 0) for i in (0, 1)]
        padded = np.pad(values, pad, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis)
        values = (windows @ weights).astype(np.float32)
    return values


def overlay(picture: UInt8[np.ndarray, "H W 3"], found: Heat) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The picture in grey under its heat map, the longest side SIDE pixels or more."""
    scale = max(1.0, SIDE / max(picture.shape[:2]))
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    large = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.float32)
    warm = Image.fromarray(np.asarray(found, np.float32)).resize(size, Image.Resampling.BILINEAR)
    warmth = np.clip(np.asarray(warm), 0.0, 1.0)
    stops = [stop for stop, _ in COLOURS]
    rgb = np.stack([np.interp(warmth, stops, [c[i] for _, c in COLOURS]) for i in range(3)], -1)
    share = (0.15 + 0.6 * warmth)[..., None]
    return np.clip((1 - share) * large + share * rgb, 0, 255).astype(np.uint8)


def save(path: Path, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a PNG, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG", optimize=True)
