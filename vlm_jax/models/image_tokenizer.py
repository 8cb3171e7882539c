"""An image as a grid of ids and back: the autoencoder of VQGAN (arXiv:2012.09841) around a
quantizer.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from vlm_jax import kwargs
from vlm_jax.layers.dot_product import dot_product_attention
from vlm_jax.layers.quantize import QUANTIZERS
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Batch

Map = Float[Array, "B H W C"]
Mapped = Float[Array, "B h w E"]
"""A map of vectors, and what a network makes of it: another size, other channels."""


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, each after group norm and swish."""

    channels: int
    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        """To `channels`; the shortcut is a 1 x 1 convolution if x has others."""
        added = _activated(x, self.groups, "norm_0")
        added = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_0")(added)
        added = _activated(added, self.groups, "norm_1")
        added = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_1")(added)
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + added


class Looking(nn.Module):
    """Self-attention with one head over all places of a map."""

    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        """X plus what attention finds."""
        height, channels = x.shape[1], x.shape[-1]
        normed = nn.GroupNorm(self.groups, epsilon=1e-6, name="norm")(x)
        flat = rearrange(normed, "B H W C -> B (H W) 1 C")
        dense = lambda name: nn.Dense(channels, dtype=self.dtype, name=name)
        q, k, v = (dense(name)(flat) for name in ("query", "key", "value"))
        k, v = (rearrange(side, "B S N C -> B N S C") for side in (k, v))
        found = dot_product_attention(q, k, v)
        return x + rearrange(dense("out")(found), "B (H W) 1 C -> B H W C", H=height)


class Encoder(nn.Module):
    """Pixels to a map of vectors, halved between levels; fields as those of `ImageTokenizer`."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    latent: int
    stem: int
    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        """f32[B, H, W, 3] to [B, h, w, latent]."""
        kernel = (3, 3) if self.stem == 1 else (self.stem, self.stem)
        stem = nn.Conv(self.channels, kernel, self.stem, dtype=self.dtype, name="stem")
        x = stem(x)
        parts: dict[str, Any] = dict(groups=self.groups, dtype=self.dtype)
        for level, multiplier in enumerate(self.multipliers):
            for block in range(self.blocks):
                name = f"level_{level}_block_{block}"
                x = Residual(self.channels * multiplier, **parts, name=name)(x)
                if level in self.attention:
                    x = Looking(**parts, name=f"level_{level}_attention_{block}")(x)
            if level < len(self.multipliers) - 1:
                padding = ((0, 1), (0, 1))  # as published, below and right only
                down = nn.Conv(
                    x.shape[-1], (3, 3), 2, padding, dtype=self.dtype, name=f"down_{level}"
                )
                x = down(x)
        x = _middle(x, parts)
        x = _activated(x, self.groups, "norm")
        return nn.Conv(self.latent, (3, 3), dtype=self.dtype, name="out")(x)


class PatchEncoder(nn.Module):
    """Each patch of patch x patch pixels to a vector by itself, through `layers` dense blocks:
    equal patches are equal tokens, wherever they are and whatever is beside them.
    """

    layers: int
    patch: int
    latent: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        """f32[B, H, W, 3] to [B, h, w, latent]."""
        sides = (self.patch, self.patch)
        x = nn.Conv(2 * self.latent, sides, self.patch, dtype=self.dtype, name="stem")(x)
        blocks = Transformer(
            self.layers, 1, 4 * self.latent, parts=("mlp",), dtype=self.dtype, name="blocks"
        )
        found, _ = blocks(_flat(x))
        found = nn.Dense(self.latent, dtype=self.dtype, name="out")(found)
        return rearrange(found, "B (h w) C -> B h w C", h=x.shape[1])


class Decoder(nn.Module):
    """A map of vectors to pixels, doubled between levels; fields as those of `ImageTokenizer`."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    stem: int
    groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        """[B, h, w, latent] to f32[B, H, W, 3], about [-1, 1]."""
        widest = self.channels * self.multipliers[-1]
        x = nn.Conv(widest, (3, 3), dtype=self.dtype, name="stem")(x)
        parts: dict[str, Any] = dict(groups=self.groups, dtype=self.dtype)
        x = _middle(x, parts)
        for level in reversed(range(len(self.multipliers))):
            for block in range(self.blocks + 1):
                name = f"level_{level}_block_{block}"
                x = Residual(self.channels * self.multipliers[level], **parts, name=name)(x)
                if level in self.attention:
                    x = Looking(**parts, name=f"level_{level}_attention_{block}")(x)
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                up = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=f"up_{level}")
                x = up(x)
        x = _activated(x, self.groups, "norm")
        x = nn.Conv(3 * self.stem**2, (3, 3), dtype=self.dtype, name="out")(x)
        x = rearrange(x, "B h w (p q C) -> B (h p) (w q) C", p=self.stem, q=self.stem)
        return x.astype(jnp.float32)


class ImageTokenizer(nn.Module):
    """Encoder, quantizer, decoder.

    quantizer: fields of one of `layers.quantize.QUANTIZERS` and its name. channels: of the first
    level; multipliers: those of each level as multiples, every level half as wide and high as the
    one before. blocks: residual blocks of each level of the encoder, the decoder has one more.
    attention: numbers of the levels whose blocks are followed by self-attention. latent: channels
    of the encoder's map. stem: side of the patches of pixels that the first convolution reads and
    the last writes; 1 for single pixels, as published. groups: of the group norms, a divisor of
    all channels. local: layers of an encoder that sees each token's pixels alone, in place of the
    convolutions (None), whose tokens tell of their surroundings, too: much for the decoder to go
    by, but little that a text could tell of. The defaults are VQGAN's with f = 16
    (arXiv:2012.09841, table 7).
    """

    quantizer: Mapping[str, Any]
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    latent: int = 256
    stem: int = 1
    groups: int = 32
    local: int | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoder and decoder, the quantizer between two dense layers."""
        common: dict[str, Any] = dict(channels=self.channels, multipliers=self.multipliers)
        common |= dict(blocks=self.blocks, attention=self.attention, stem=self.stem)
        common |= dict(groups=self.groups, dtype=self.dtype)
        if self.local is None:
            self.encoder = Encoder(latent=self.latent, **common)
        else:
            self.encoder = PatchEncoder(self.local, self.factor, self.latent, self.dtype)
        self.decoder = Decoder(**common)
        self.codebook = kwargs.build(QUANTIZERS, self.quantizer, "config.model.quantizer")
        self.into = nn.Dense(self.codebook.width)
        self.out_of = nn.Dense(self.latent)

    @property
    def codes(self) -> int:
        """How many ids there are, V."""
        return kwargs.build(QUANTIZERS, self.quantizer, "config.model.quantizer", parent=None).codes

    @property
    def factor(self) -> int:
        """How many pixels wide and high a token is."""
        return self.stem * 2 ** (len(self.multipliers) - 1)

    def __call__(
        self, batch: Batch, asks: Mapping[str, str], *, train: bool = False
    ) -> dict[str, dict[str, Array]]:
        """Outputs for each task in `asks` = {task name: "reconstruct_image"}, from batch["image"]
        uint8[B, H, W, 3].
        """
        return {
            task: getattr(self, ask)(batch["image"], batch.get(task, {}), train=train)
            for task, ask in asks.items()
        }

    def reconstruct_image(
        self, image: Array, inputs: Mapping[str, Any], *, train: bool = False
    ) -> dict[str, Array]:
        """image and drawn f32[B, H, W, 3] in about [-1, 1], what was given and what became of it;
        ids i32[B, S]; codebook_loss f32[B].
        """
        pixels = to_pixels(image)
        grid = self._map(pixels)
        found = self.codebook(_flat(self.into(grid)), train=train)
        drawn = self._draw(found.vectors, grid.shape[1])
        named = {"ids": found.ids, "codebook_loss": found.loss}
        return {"image": pixels, "drawn": drawn} | named

    def encode(self, image: Array) -> Int[Array, "B S"]:
        """The ids of uint8[B, H, W, 3] images, row by row."""
        return self.codebook(self.vectors(image)).ids

    def vectors(self, image: Array) -> Float[Array, "B S E"]:
        """The vectors of uint8[B, H, W, 3] images, row by row, before they are quantized."""
        return _flat(self.into(self._map(to_pixels(image))))

    def decode(self, ids: Int[Array, "B S"]) -> Float[Array, "B H W 3"]:
        """The square images that ids stand for, in about [-1, 1]. ValueError if S is no square."""
        side = round(ids.shape[1] ** 0.5)
        if side**2 != ids.shape[1]:
            raise ValueError(f"{ids.shape[1]} image tokens are no square grid: give side * side")
        return self._draw(self.codebook.look_up(ids), side)

    def _map(self, pixels: Map) -> Mapped:
        sides = pixels.shape[1:3]
        if any(side % self.factor for side in sides):
            raise ValueError(
                f"an image of {sides[0]} x {sides[1]} pixels does not divide into tokens of "
                f"{self.factor} x {self.factor}: set data.image.size to a multiple of {self.factor}"
            )
        return self.encoder(pixels)

    def _draw(self, vectors: Float[Array, "B S D"], height: int) -> Map:
        grid = rearrange(vectors, "B (h w) D -> B h w D", h=height)
        return self.decoder(self.out_of(grid))


def to_pixels(image: Array) -> Map:
    """uint8 images as f32 in [-1, 1]; float ones as they are."""
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def to_bytes(pixels: Map) -> Array:
    """Pixels in [-1, 1], others clipped, as uint8 images."""
    return jnp.clip(jnp.round((pixels + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def _flat(grid: Map) -> Float[Array, "B S C"]:
    return rearrange(grid, "B h w C -> B (h w) C")


def _activated(x: Map, groups: int, name: str) -> Map:
    """Swish of the group norm; called inside a compact module, whose submodule the norm becomes."""
    return jax.nn.swish(nn.GroupNorm(groups, epsilon=1e-6, name=name)(x))


def _middle(x: Map, parts: Mapping[str, Any]) -> Map:
    """Two residual blocks with attention between; called inside a compact module."""
    x = Residual(x.shape[-1], **parts, name="middle_0")(x)
    x = Looking(**parts, name="middle_attention")(x)
    return Residual(x.shape[-1], **parts, name="middle_1")(x)
