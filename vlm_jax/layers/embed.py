"""Token and position embeddings: learned, sinusoidal in one and two dimensions, resized."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num


def sincos_1d(positions: Num[Array, "..."] | np.ndarray, width: int) -> Float[Array, "... D"]:
    """Sines, then cosines, of the positions at D / 2 wavelengths from 2 pi to 10,000 * 2 pi.

    width: D, even (ValueError otherwise). arXiv:1706.03762, section 3.5.
    """
    if width % 2:
        raise ValueError(f"sin-cos position embeddings need an even width, not {width}")
    frequencies = 1.0 / 10_000 ** (np.arange(width // 2) / (width / 2))  # [D / 2]
    positions = jnp.asarray(positions, jnp.float32)[..., None]  # [..., 1]
    angles = positions * frequencies.astype(np.float32).reshape((1,) * (positions.ndim - 1) + (-1,))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sincos_2d(height: int, width: int, channels: int) -> Float[Array, "S D"]:
    """Half of the channels encode the column, half the row, of an H x W grid in row-major order.

    channels: D, divisible by 4 (ValueError otherwise). arXiv:2111.06377, appendix A.1.
    """
    if channels % 4:
        raise ValueError(
            f"2-D sin-cos position embeddings need a width divisible by 4, not {channels}"
        )
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    halves = [sincos_1d(grid.reshape(-1), channels // 2) for grid in (columns, rows)]
    return jnp.concatenate(halves, axis=-1)


def resize_grid(
    table: Float[Array, "S D"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "S2 D"]:
    """Position embeddings of an `old` (rows, columns) grid, resampled bilinearly to a `new` one."""
    grid = table.reshape(*old, table.shape[-1])
    return jax.image.resize(grid, (*new, table.shape[-1]), "bilinear").reshape(-1, table.shape[-1])


class TokenEmbedding(nn.Module):
    """Token vectors plus positions, as every text network here starts.

    vocab: V. width: D. max_length: longest sequence; needed by learned positions.
    positions: "learned", "sincos" or "none".
    """

    vocab: int
    width: int
    max_length: int
    positions: str = "learned"
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """One table for tokens, named `token`, and one for learned positions."""
        self.token = nn.Embed(
            self.vocab, self.width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype
        )
        if self.positions not in ("learned", "sincos", "none"):
            raise ValueError(f'positions={self.positions!r}: choose "learned", "sincos" or "none"')
        if self.positions == "learned":
            shape = (self.max_length, self.width)
            self.position = self.param("position", nn.initializers.normal(0.02), shape)

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Embed tokens at `positions`, by default 0 ... T - 1. ValueError if T > max_length."""
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not fit max_length={self.max_length}: shorten "
                "the text or raise max_length in the model's config"
            )
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return self.locate(self.token(tokens), positions)

    def locate(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """X plus the vectors of its positions, which must be below max_length; x may be anything of
        width D.
        """
        if self.positions == "learned":
            x = x + jnp.asarray(self.position, self.dtype)[positions]
        elif self.positions == "sincos":
            x = x + sincos_1d(positions, self.width).astype(self.dtype)
        return x

    def attend(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores of x against every token vector: an output layer with tied weights."""
        return self.token.attend(x)
