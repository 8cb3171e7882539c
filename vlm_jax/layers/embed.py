"""Token and position embeddings: learned, sinusoidal in one and two dimensions, resized."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num

from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain, look_up


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
    table: Float[Array, "S D"],
    old: tuple[int, int],
    new: tuple[int, int],
    method: str = "bilinear",
) -> Float[Array, "S2 D"]:
    """Position embeddings of an `old` (rows, columns) grid, resampled to a `new` one.

    method: "bilinear", over wider triangles where the grid shrinks, or "bicubic" (Keys' kernel
    with a = -0.75, never widened), as PyTorch resamples by default. ValueError for another.
    """
    if method not in ("bilinear", "bicubic"):
        raise ValueError(f'resize={method!r}: choose "bilinear" or "bicubic"')
    grid = table.reshape(*old, table.shape[-1])
    if method == "bilinear":
        grid = jax.image.resize(grid, (*new, table.shape[-1]), "bilinear")
    else:
        rows, columns = (_bicubic(*sides) for sides in zip(old, new, strict=True))
        grid = jnp.einsum("hi,wj,ijd->hwd", rows, columns, grid)
    return grid.reshape(-1, table.shape[-1])


def _bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Weights [new, old] of samples in resampled ones; beyond the border the last one repeats."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((new, old), np.float32)
    for tap in range(-1, 3):
        x = np.abs(centre - first - tap)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        index = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), np.where(x <= 1, near, far))
    return weights


def resize_to_each(
    table: Float[Array, "S D"], side: int, grids: Int[Array, "B 2"], length: int
) -> Float[Array, "B L D"]:
    """Position embeddings of a square grid, resampled to the (rows, columns) of each example.

    Bilinear as in `resize_grid`; the grids may be traced. Row-major, up to `length` tokens; those
    beyond an example's grid have the position of its first.
    """
    rows, columns = grids[:, :1], grids[:, 1:]  # [B, 1]
    token = jnp.arange(length)[None]  # [1, L]
    token = jnp.where(token < rows * columns, token, 0)
    down = _triangles(token // columns, rows, side)  # [B, L, side]
    across = _triangles(token % columns, columns, side)
    weights = jnp.einsum("bli,blj->blij", down, across).reshape(*token.shape, side * side)
    return jnp.einsum("bls,sd->bld", weights, table)


def _triangles(index: Int[Array, "B L"], new: Int[Array, "B 1"], old: int) -> Float[Array, "B L S"]:
    """Weights of `old` samples in sample `index` of `new` ones."""
    scale = old / new.astype(jnp.float32)  # [B, 1]
    centre = (index + 0.5) * scale
    distance = jnp.abs(jnp.arange(old)[None, None] + 0.5 - centre[..., None])
    weights = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(scale, 1.0)[..., None])
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def nearest_to_each(
    table: Float[Array, "P D"], side: int, real: Bool[Array, "B H W"]
) -> Float[Array, "B S D"]:
    """For each patch the position, of a side x side grid, at the same fraction of its image.

    real: the patches that an image of its own size fills, some first rows and columns of H x W; all
    others get the first position (NaViT, arXiv:2307.06304, section 2.1, as Idefics2 and 3 have it).
    """
    rows, columns = jnp.sum(real[:, :, 0], axis=1), jnp.sum(real[:, 0], axis=1)  # [B]
    row = jnp.asarray(_fractions(side, real.shape[1]))[rows]  # [B, H]
    column = jnp.asarray(_fractions(side, real.shape[2]))[columns]  # [B, W]
    number = jnp.where(real, row[:, :, None] * side + column[:, None, :], 0)
    return table[number.reshape(len(number), -1)]


def corners_to_each(
    table: Float[Array, "P D"], side: int, real: Bool[Array, "B H W"]
) -> Float[Array, "B S D"]:
    """Position embeddings of a side x side grid, stretched over the real patches of each image.

    Bilinear, with corners on corners (ViLT, arXiv:2102.03334, as released). real: as for
    `nearest_to_each`; what the others get means nothing.
    """
    rows, columns = jnp.sum(real[:, :, 0], axis=1), jnp.sum(real[:, 0], axis=1)  # [B]

    def weights(new: Int[Array, " B"], length: int) -> Float[Array, "B L P"]:
        step = (side - 1) / jnp.maximum(new - 1, 1).astype(jnp.float32)
        centre = jnp.arange(length, dtype=jnp.float32)[None] * step[:, None]  # [B, L]
        distance = jnp.abs(jnp.arange(side, dtype=jnp.float32)[None, None] - centre[..., None])
        return jnp.maximum(0.0, 1.0 - distance)

    grid = table.reshape(side, side, -1)
    down, across = weights(rows, real.shape[1]), weights(columns, real.shape[2])
    return jnp.einsum("bhi,bwj,ijd->bhwd", down, across, grid).reshape(len(real), -1, grid.shape[2])


def _fractions(side: int, most: int) -> np.ndarray:
    """The place among `side` of patch i of n, i32[n, i] for n and i up to `most`.

    In float32, as the released code computes it: for some sides patch i of side comes out as i - 1.
    """
    step = 1 / side
    borders = (step + step * np.arange(math.ceil((1 - step) / step))).astype(np.float32)
    counts = np.maximum(np.arange(most + 1), 1).astype(np.float32)
    shares = np.arange(most, dtype=np.float32)[None] * (np.float32(1) / counts)[:, None]
    shares = np.minimum(shares, np.float32(1 - 1e-6))
    return np.searchsorted(borders, shares, side="right").astype(np.int32)


class RelativePositions(nn.Module):
    """A learned number per head for the distance between two tokens, added to their product.

    T5 (arXiv:1910.10683, section 2.1): the first half of the buckets (of each direction) counts
    distances one by one, the rest grows logarithmically up to `distance`, beyond which all are
    equal. bidirectional: tokens before and after have buckets of their own; otherwise those after
    all count as distance 0.
    """

    heads: int
    buckets: int = 32
    distance: int = 128
    bidirectional: bool = True

    @nn.compact
    def __call__(
        self, queries: Int[Array, "B T"], keys: Int[Array, "B M"]
    ) -> Float[Array, "B N T M"]:
        """Bias of each query position towards each key position."""
        table = self.param("table", nn.initializers.normal(0.02), (self.buckets, self.heads))
        buckets = self._bucket(keys[:, None, :] - queries[:, :, None])  # [B, T, M]
        return jnp.moveaxis(jnp.asarray(table)[buckets], -1, 1)

    @nn.nowrap
    def _bucket(self, offset: Int[Array, "B T M"]) -> Int[Array, "B T M"]:
        """Number of the bucket of key position - query position."""
        each = self.buckets // 2 if self.bidirectional else self.buckets
        known = jnp.asarray(distance_buckets(each, self.distance))  # [distance + 1]
        if not self.bidirectional:
            return known[jnp.clip(-offset, 0, self.distance)]
        return known[jnp.minimum(jnp.abs(offset), self.distance)] + each * (offset > 0)


def distance_buckets(buckets: int, distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `distance`, i32[distance + 1].

    Worked out in NumPy: on an accelerator, a rounded logarithm can fall on the wrong side of a
    bucket's edge.
    """
    offset, exact = np.arange(distance + 1), buckets // 2
    growth = np.log(np.maximum(offset, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(np.log(distance / exact)) * np.float32(buckets - exact)
    large = np.minimum(exact + growth.astype(np.int32), buckets - 1)
    return np.where(offset < exact, offset, large).astype(np.int32)


POSITIONS = ("learned", "sincos", "grid", "none")


def _side(places: int) -> int:
    """The side of a square of so many places; ValueError if they are none."""
    side = round(places**0.5)
    if side**2 != places:
        raise ValueError(f'positions="grid" needs a square number as max_length, not {places}')
    return side


class TokenEmbedding(nn.Module):
    """Token vectors plus positions, as every text network here starts.

    vocab: V. width: D. max_length: longest sequence; needed by learned positions.
    positions: "learned", "sincos", "none", or "grid", a learned vector for the row and one for the
    column of a square of max_length places in row-major order (DALL-E, arXiv:2102.12092). offset:
    added to every learned position (OPT: 2); its rows are unused but there. scaled: multiply token
    vectors by sqrt(D) (Gemma). extra: rows of a second table, for ids from V on (Idefics: words
    added to a vocabulary that stays frozen).
    """

    vocab: int
    width: int
    max_length: int
    positions: str = "learned"
    dtype: DTypeLike = jnp.float32
    offset: int = 0
    scaled: bool = False
    extra: int = 0

    def setup(self):
        """One table for tokens, named `token`, one for learned positions, one for extra tokens."""
        self.token = nn.Embed(
            self.vocab, self.width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype
        )
        if self.extra:
            self.extra_token = nn.Embed(
                self.extra,
                self.width,
                embedding_init=nn.initializers.normal(0.02),
                dtype=self.dtype,
            )
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: choose one of {POSITIONS}")
        if self.positions == "learned":
            shape = (self.max_length + self.offset, self.width)
            self.position = self.param("position", nn.initializers.normal(0.02), shape)
        if self.positions == "grid":
            shape = (_side(self.max_length), self.width)
            self.row = self.param("row", nn.initializers.normal(0.02), shape)
            self.column = self.param("column", nn.initializers.normal(0.02), shape)

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Embed tokens at `positions`, by default 0 ... T - 1. ValueError if T > max_length."""
        x = self.words(tokens)
        return self.in_order(x) if positions is None else self.locate(x, positions)

    def words(
        self, tokens: Int[Array, "B T"], table: Float[Array, "V D"] | None = None
    ) -> Float[Array, "B T D"]:
        """Token vectors without positions. table: another module's, instead of an own one."""
        own = jnp.minimum(tokens, self.vocab - 1) if self.extra else tokens
        table = self.token.embedding if table is None else table
        x = look_up(jnp.asarray(table, self.dtype), own)
        if self.extra:
            added = self.extra_token(jnp.maximum(tokens - self.vocab, 0))
            x = jnp.where((tokens < self.vocab)[..., None], x, added)
        return x * jnp.asarray(self.width**0.5, self.dtype) if self.scaled else x

    def in_order(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """X plus the vectors of positions 0 ... T - 1. ValueError if T > max_length."""
        if x.shape[1] > self.max_length:
            raise ValueError(
                f"{x.shape[1]} tokens do not fit max_length={self.max_length}: shorten "
                "the text or raise max_length in the model's config"
            )
        return self.locate(x, jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]))

    def locate(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """X plus the vectors of its positions, which must be below max_length; x may be anything of
        width D.
        """
        if self.positions == "learned":
            x = x + jnp.asarray(self.position, self.dtype)[positions + self.offset]
        elif self.positions == "grid":
            row, column = divmod(positions, _side(self.max_length))
            x = x + jnp.asarray(self.row, self.dtype)[row]
            x = x + jnp.asarray(self.column, self.dtype)[column]
        elif self.positions == "sincos":
            x = x + sincos_1d(positions, self.width).astype(self.dtype)
        return x

    def attend(
        self, x: Float[Array, "B T D"], table: Float[Array, "own D"] | None = None
    ) -> Float[Array, "B T V"]:
        """Scores of x against every token vector: an output layer with tied weights."""
        scores = x.astype(self.dtype) @ jnp.asarray(self.table(table), self.dtype).T
        return constrain(scores, BATCH, LENGTH, SPLIT)

    def table(self, given: Float[Array, "own D"] | None = None) -> Float[Array, "V D"]:
        """All token vectors, the extra ones last. given: in place of the first table."""
        table = jnp.asarray(self.token.embedding if given is None else given)
        return jnp.concatenate([table, self.extra_token.embedding]) if self.extra else table


def insert(
    x: Num[Array, "B T D"],
    where: Bool[Array, "B T"],
    memory: Num[Array, "B S D"],
    real: Bool[Array, "B S"],
) -> Num[Array, "B T D"]:
    """X with its i-th marked token replaced by the i-th real memory token.

    Marked tokens beyond the last memory token keep what they are.
    """
    order = jnp.argsort(~real, axis=1, stable=True)  # [B, S], the real ones first
    rank = jnp.cumsum(where, axis=1) - 1  # [B, T]
    known = where & (rank < jnp.sum(real, axis=1)[:, None])
    chosen = jnp.take_along_axis(order, jnp.clip(rank, 0, real.shape[1] - 1), axis=1)
    images = jnp.take_along_axis(memory, chosen[..., None], axis=1)  # [B, T, D]
    return jnp.where(known[..., None], images, x)
