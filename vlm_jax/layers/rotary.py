"""Rotary position embeddings (arXiv:2104.09864): queries and keys turn by angles that grow with
their positions, so that their products depend on distances alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Rotary(NamedTuple):
    """Cosines and sines of the angles of T tokens, f32[B, T, K / 2] (B may be 1)."""

    cos: Float[Array, "*B T half"]
    sin: Float[Array, "*B T half"]


def frequencies(
    head_dim: int,
    theta: float = 10_000.0,
    *,
    factor: float = 1.0,
    low_factor: float | None = None,
    high_factor: float | None = None,
    original_length: int = 8192,
) -> np.ndarray:
    """Radians per position, f32[K / 2], from 1 down to theta ** -(1 - 2 / K).

    factor: divides every frequency (linear position interpolation, arXiv:2306.15595). With
    low_factor and high_factor, only waves longer than original_length / low_factor are divided,
    those shorter than original_length / high_factor are not, and between the two the rate is
    interpolated (Llama 3.1, arXiv:2407.21783, section 3.4 and its released code's constants).
    ValueError for an odd head_dim.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions turn pairs of channels: head_dim={head_dim} is odd")
    rates = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if low_factor is None or high_factor is None:
        return (rates / factor).astype(np.float32)
    turns = original_length * rates / (2 * math.pi)  # whole turns within the original context
    share = np.clip((turns - low_factor) / (high_factor - low_factor), 0, 1)
    return (share * rates + (1 - share) * rates / factor).astype(np.float32)


def rotary(
    positions: Int[Array, "B T"] | Int[Array, "B T A"],
    rates: np.ndarray,
    axes: Sequence[int] = (),
) -> Rotary:
    """The angles of tokens at `positions`; rates: from `frequencies`.

    axes: with several coordinates per token, which of them turns each pair of channels.
    """
    chosen = positions[..., np.asarray(axes)] if len(axes) else positions[..., None]
    angles = chosen.astype(jnp.float32) * jnp.asarray(rates)[None, None]
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def section_axes(sections: Sequence[int]) -> list[int]:
    """Which of three coordinates turns each pair of channels, for sections of these sizes.

    (2, 1, 1): the frame turns the first two pairs, the row the next and the column the last
    (arXiv:2409.12191, section 2.1).
    """
    return [number % 3 for number, size in enumerate(sections) for _ in range(size)]


def image_coordinates(
    places: Int[Array, "B T 3"],
    images: Bool[Array, "B T"],
    real: Bool[Array, "B T"],
    start: Int[Array, " B"],
) -> tuple[Int[Array, "B T 3"], Int[Array, " B"]]:
    """Frame, row and column of tokens of text and images, and where the next token would stand.

    A word has three equal coordinates, one more than what stands before it. The tokens of an image,
    which is a run of `images`, start there too and count on by their `places` in it; what follows
    it starts beyond its longer side (arXiv:2409.12191, section 2.1):
        word, 2 x 3 image, word     0 | 1 1 1  1 1 1 | 4
                                    0 | 1 1 1  2 2 2 | 4
                                    0 | 1 2 3  1 2 3 | 4
    start: where the first token stands.
    """
    last = images & ~jnp.pad(images, ((0, 0), (0, 1)))[:, 1:]
    longest = jnp.where(last, jnp.max(places[..., 1:], axis=-1) + 1, 0)
    advance = jnp.where(images, longest, real)  # [B, T]
    before = start[:, None] + jnp.cumsum(advance, axis=1) - advance
    positions = before[..., None] + jnp.where(images[..., None], places, 0)
    furthest = jnp.max(jnp.where(real[..., None], positions, -1), axis=(1, 2))
    return positions, jnp.maximum(furthest + 1, start)


def rotate(x: Float[Array, "B T N K"], by: Rotary) -> Float[Array, "B T N K"]:
    """Channel i turns together with channel i + K / 2, as in the checkpoints of GPT-NeoX, Llama,
    Gemma and Qwen (not with its neighbour, as in the paper: a permutation of the weights).
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[..., None, :], by.sin[..., None, :]  # [B, T, 1, K / 2]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
