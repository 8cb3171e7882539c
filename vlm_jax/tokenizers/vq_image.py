"""Image tokens on the host: ids and their grid, and how well a codebook is used."""

import numpy as np


def to_grid(ids: np.ndarray, codes: int) -> np.ndarray:
    """Ids [..., S] as i32[..., side, side], row by row. ValueError if S is no square, or an id is
    outside [0, codes).
    """
    ids = np.asarray(ids)
    side = round(ids.shape[-1] ** 0.5)
    if side**2 != ids.shape[-1]:
        raise ValueError(f"{ids.shape[-1]} image tokens are no square grid: give side * side")
    wrong = ids[(ids < 0) | (ids >= codes)]
    if wrong.size:
        raise ValueError(f"image token {wrong.flat[0]} is outside the codebook's [0, {codes})")
    return ids.astype(np.int32).reshape(*ids.shape[:-1], side, side)


def to_ids(grid: np.ndarray) -> np.ndarray:
    """A grid [..., h, w] as ids i32[..., h * w], row by row."""
    grid = np.asarray(grid, np.int32)
    return grid.reshape(*grid.shape[:-2], -1)


def codebook_use(ids: np.ndarray, codes: int) -> tuple[float, float]:
    """The share of the codes that occur among the ids, in [0, 1], and their perplexity, in
    [1, codes]: how many codes would be as hard to guess if all were used alike.
    """
    counts = np.bincount(np.asarray(ids).reshape(-1), minlength=codes)
    shares = counts[counts > 0] / counts.sum()
    return float(np.mean(counts > 0)), float(np.exp(-np.sum(shares * np.log(shares))))
