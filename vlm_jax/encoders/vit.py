"""Vision Transformer (arXiv:2010.11929), and its variants in CLIP, SigLIP and MAE."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.encoders.image_features import block_order, grid_places, token_mask
from vlm_jax.kwargs import pair
from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.embed import (
    corners_to_each,
    nearest_to_each,
    resize_grid,
    resize_to_each,
    sincos_2d,
)
from vlm_jax.layers.masks import block_mask, padding_mask
from vlm_jax.layers.mlp import Mlp
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.rotary import Rotary, frequencies, rotary
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features, summary

POOLINGS = ("cls", "mean", "attention", "none")
POSITIONS = ("learned", "sincos", "rotary", "none")
NORMAL = nn.initializers.normal(0.02)


class ConvStem(nn.Module):
    """3 x 3 convolutions with stride 2 that double the channels up to `width`, then a 1 x 1.

    patch: their total strides by row and by column, powers of two (ValueError otherwise); where one
    is smaller, the last convolutions stride along the other alone. first: channels of the first
    convolution, None to reach the width in the last. Early convolutions make a Transformer easier
    to train (arXiv:2106.14881, section 4); the norms here are over channels, not over the batch, so
    that an example never depends on its neighbours.
    """

    patch: tuple[int, int]
    width: int
    first: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        """Map an image to H2 = H / rows of a patch and W2 = W / columns of one, rounded up."""
        halvings = [side.bit_length() - 1 for side in self.patch]
        whole = tuple(2**count for count in halvings)
        if self.patch != whole or self.width % max(whole):
            raise ValueError(
                f"a convolutional stem needs powers of two as patch, not {self.patch}, "
                f"that divide the width, {self.width}"
            )
        x = image
        first = self.first or self.width // 2 ** (max(halvings) - 1)
        for layer in range(max(halvings)):
            channels = min(first * 2**layer, self.width)
            strides = [2 if layer < count else 1 for count in halvings]
            shared = {"strides": strides, "padding": 1, "use_bias": False, "dtype": self.dtype}
            x = nn.Conv(channels, (3, 3), **shared, name=f"conv{layer + 1}")(x)
            name = f"norm{layer + 1}"
            x = nn.relu(make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name=name)(x))
        return nn.Dense(self.width, dtype=self.dtype, name="out")(x)


class AttentionPooling(nn.Module):
    """A learned query attends to all tokens, then an MLP: SigLIP's head (arXiv:2106.04560, 3.3)."""

    heads: int
    mlp_width: int
    activation: str = "gelu"
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], mask: Bool[Array, "B 1 1 S"] | None
    ) -> Float[Array, "B D"]:
        """Pool the tokens that `mask` shows (None: all)."""
        probe = self.param("probe", NORMAL, (1, 1, x.shape[-1])).astype(self.dtype)
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        pooled, _ = Attention(self.heads, dtype=self.dtype, name="attention")(probe, x, mask=mask)
        norm = make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name="norm")
        mlp = Mlp(self.mlp_width, self.activation, dtype=self.dtype, name="mlp")
        return (pooled + mlp(norm(pooled)))[:, 0]


class ViT(nn.Module):
    """Patches of an image through a Transformer; tokens are the patches in row-major order. Images
    have three channels, or one, as spectrograms, whose rows are frequencies.

    patch: side of a square patch in pixels, or its height and width. image_size: the same of the
        images that the position embeddings are made for; for another size they are resized, as
        `resize` says ("bilinear" or "bicubic", see `layers.embed.resize_grid`; "nearest", see
        `layers.embed.nearest_to_each`, and "corners", see `layers.embed.corners_to_each`, both with
        a mask of whole rows and columns).
    positions: "learned", "sincos" (fixed, 2-D), "rotary" or "none". Rotary: half of the channels
        turn with the row, half with the column (arXiv:2409.12191, section 2.1), at rates down to
        1 / theta; the Features then have places.
    block: tokens are in row-major order of blocks of block x block patches, and within each, for
        connectors that merge such blocks; without a class token. frames: images in a patch, one
        behind the other (a lone image is repeated).
    class_token: a learned token in front of the patches. class_position: with a position embedding
        of its own. keep_class_token: leave it there in `tokens` (as in GIT); otherwise (LLaVA) the
        tokens are the patches alone.
    pooling: what `pooled` is: "cls" (the class token), "mean" (of the real patches), "attention"
        (`AttentionPooling` over everything) or "none" (None).
    pooler: a dense layer on that, followed by this activation or by nothing if "linear"; None for
        no layer. pooler_width: its width (None: width).
    classes: one more dense layer, whose scores [B, classes] become `pooled`.
    layers: 0 leaves the embeddings as they are, for fusions that do the rest (ViLT).
    standardised: first give each channel of an image mean 0 and deviation 1, so that the colours of
        ink and paper do not matter.
    stem: "patch" (linear) or "conv" (`ConvStem`, with stem_width as `first`). patch_bias: of the
        linear one.
    pre_norm: normalise the embeddings before the first layer, as CLIP does (arXiv:2103.00020).
    final_norm: normalise the last layer's states; norm_tokens=False: only `pooled`. stop: read the
        states after this many layers as they are, such as the penultimate ones of LLaVA
        (arXiv:2304.08485, section 4.1).
    The others are those of `layers.transformer.Transformer`; dropout is also on the embeddings.
    The defaults are ViT-B/16 (224 pixels).
    """

    patch: int | tuple[int, int] = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    image_size: int | tuple[int, int] = 224
    positions: str = "learned"
    resize: str = "bilinear"
    theta: float = 10_000.0
    block: int = 1
    frames: int = 1
    class_token: bool = True
    class_position: bool = True
    keep_class_token: bool = False
    pooling: str = "cls"
    pooler: str | None = None
    pooler_width: int | None = None
    classes: int | None = None
    stem: str = "patch"
    stem_width: int | None = None
    standardised: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    norm_tokens: bool = True
    norm: str = "layer"
    bias: bool = True
    attention: Options = NO_OPTIONS
    mlp: Options = NO_OPTIONS
    activation: str = "gelu"
    epsilon: float = 1e-6
    stop: int | None = None
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W C"] | Float[Array, "B S P"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        shapes: Int[Array, "B 2"] | None = None,
        places: Int[Array, "B S 3"] | None = None,
        segments: Int[Array, "B S"] | None = None,
        train: bool = False,
    ) -> Features:
        """Encode normalised images into S = (H // patch) * (W // patch) tokens.

        Images of several sizes come as patches cut beforehand, P = patch * patch * 3 numbers each
        in the order row, column, channel, S of them in row-major order; shapes: the rows and
        columns of each (arXiv:2502.14786, section 2.4). With rotary positions they may also be
        those of several images in one row, in the order of `block`, P times `frames` numbers each;
        places: frame, row and column of each; segments: those of one image have one number and see
        only each other, 0 is padding.

        Pixels beyond the last whole patch are not seen (with stem="conv": S is rounded up instead).
        mask: which patches are real, None for all; the others influence nothing.
        ValueError for an unknown option, or images smaller than one patch.
        """
        self._check(image.shape, shapes, places)
        x = self._embed(image.astype(self.dtype))  # [B, H2, W2, D], or [B, S, D] of patches
        grid, x = x.shape[1:-1], x.reshape(x.shape[0], -1, self.width)
        mask = mask if segments is None else segments > 0
        real = token_mask(x.shape[1], x.shape[0], mask)
        table = self._position_table(grid, shapes, real).astype(self.dtype)  # first that of cls
        if self.positions == "rotary" and places is None:
            places = jnp.broadcast_to(grid_places(*grid)[None], (*x.shape[:2], 3))
        if self.block > 1 and len(grid) == 2:
            order = block_order(*grid, self.block)
            x, real, table = (y[:, order] for y in (x, real, table))
            places = None if places is None else places[:, order]
        if self.class_token:
            first = self.param("class_token", NORMAL, (1, 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, self.width)), x], axis=1)
            real = jnp.pad(real, ((0, 0), (1, 0)), constant_values=True)
        x = nn.Dropout(self.dropout, deterministic=not train)(x + table)
        if self.pre_norm:
            x = self._norm("layer", "embeddings_norm")(x)
        visible = None if mask is None else padding_mask(real)
        visible = visible if segments is None else block_mask(segments, segments)
        if self.layers:
            turns = None if places is None else self._rotary(places)
            normed = self.final_norm and self.norm_tokens
            layers = stack(self, final_norm=normed, name="transformer")
            x, _ = layers(x, mask=visible, rotary=turns, train=train)
        return self._features(x, real, visible)._replace(places=places)

    def _embed(self, image: Array) -> Float[Array, "B H2 W2 D"] | Float[Array, "B S D"]:
        image = _standardised(image) if self.standardised else image
        if self.stem == "conv":
            fields = (pair(self.patch), self.width, self.stem_width, self.epsilon, self.dtype)
            return ConvStem(*fields, name="conv_stem")(image)
        patches = image
        if image.ndim == 4:
            high, wide = pair(self.patch)
            rows, columns = image.shape[1] // high, image.shape[2] // wide
            whole = image[:, : rows * high, : columns * wide]
            patches = rearrange(whole, "B (H P) (W Q) C -> B H W (P Q C)", H=rows, W=columns)
            patches = patches if self.frames == 1 else jnp.tile(patches, self.frames)
        name = "patch_embedding"
        return nn.Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name=name)(patches)

    def _rotary(self, places: Int[Array, "B S 3"]) -> Rotary:
        """Angles by row for the first half of the pairs of channels, by column for the second."""
        rates = frequencies(self.width // self.heads // 2, self.theta)
        axes = np.repeat([1, 2], len(rates))
        return rotary(places, np.concatenate([rates, rates]), axes.tolist())

    def _position_table(
        self, grid: tuple[int, ...], shapes: Int[Array, "B 2"] | None, real: Bool[Array, "B R"]
    ) -> Float[Array, "#B S D"]:
        """A row per token, resized to `grid`, or to `shapes` with grid = (S,); with a class token
        its row comes first.
        """
        if self.positions in ("rotary", "none"):
            return jnp.zeros((1, int(self.class_token) + math.prod(grid), 1))
        sides, patch = pair(self.image_size), pair(self.patch)
        old, first = (sides[0] // patch[0], sides[1] // patch[1]), int(self.class_token)
        side = old[0]
        added = first if self.class_position else 0
        if self.positions == "learned":
            table = self.param("position", NORMAL, (added + math.prod(old), self.width))
            table = jnp.pad(table, ((first - added, 0), (0, 0)))
        else:
            table = jnp.pad(sincos_2d(*old, self.width), ((first, 0), (0, 0)))
        if self.resize == "nearest":
            return nearest_to_each(table, side, real.reshape(-1, *grid))
        if self.resize == "corners":
            resized = corners_to_each(table[first:], side, real.reshape(-1, *grid))
        elif grid == old:
            return table[None]
        elif shapes is None:
            new = (grid[0], grid[1])
            resized = resize_grid(table[first:], old, new, self.resize)[None]
        else:
            resized = resize_to_each(table[first:], side, shapes, grid[0])
        own = jnp.broadcast_to(table[None, :first], (resized.shape[0], first, self.width))
        return jnp.concatenate([own, resized], axis=1)

    @nn.nowrap
    def _norm(self, kind: str, name: str) -> nn.Module:
        return make_norm(kind, epsilon=self.epsilon, dtype=self.dtype, name=name)

    def _features(self, x: Array, real: Array, visible: Array | None) -> Features:
        """Drop the class token unless it is wanted, pool, classify."""
        first = int(self.class_token)
        patches = Features(x[:, first:], real[:, first:])
        features = Features(x, real) if self.keep_class_token else patches
        if self.pooling == "cls":
            pooled = x[:, 0]
        elif self.pooling == "mean":
            pooled = summary(patches)
        elif self.pooling == "attention":
            fields = (self.heads, self.mlp_width, self.activation, self.epsilon, self.dtype)
            pooled = AttentionPooling(*fields, name="attention_pooling")(x, visible)
        else:
            return features
        if self.final_norm and not self.norm_tokens:
            pooled = self._norm(self.norm, "final_norm")(pooled)
        if self.pooler is not None:
            dense = nn.Dense(self.pooler_width or self.width, dtype=self.dtype, name="pooler")
            pooled = dense(pooled)
            pooled = pooled if self.pooler == "linear" else ACTIVATIONS[self.pooler](pooled)
        if self.classes is not None:
            pooled = nn.Dense(self.classes, dtype=self.dtype, name="head")(pooled)
        return features._replace(pooled=pooled)

    def _check(self, shape: tuple[int, ...], shapes: Array | None, places: Array | None) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: choose one of {POOLINGS}")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: choose one of {POSITIONS}")
        if self.class_token and (self.block > 1 or self.resize == "nearest"):
            raise ValueError('block and resize="nearest" need class_token=False')
        if self.stem not in ("patch", "conv"):
            raise ValueError(f'stem={self.stem!r}: choose "patch" or "conv"')
        if (self.pooling == "cls" or self.keep_class_token) and not self.class_token:
            raise ValueError('pooling="cls" and keep_class_token need class_token=True')
        if self.classes is not None and self.pooling == "none":
            raise ValueError('classes needs a pooled vector: set pooling to other than "none"')
        patches = len(shape) == 3
        known = shapes is not None or (places is not None and self.positions == "rotary")
        if patches != known or (patches and self.stem == "conv"):
            raise ValueError(
                "patches cut beforehand need `shapes`, or `places` if positions are rotary; images "
                "take none"
            )
        if patches and self.standardised:
            raise ValueError("standardised=True needs whole images, not patches cut beforehand")
        (height, width), patch = pair(self.image_size), pair(self.patch)
        if height != width and (shapes is not None or self.resize in ("nearest", "corners")):
            raise ValueError(f"image_size={self.image_size} must be square here")
        if not patches and (min(shape[1], height) < patch[0] or min(shape[2], width) < patch[1]):
            raise ValueError(
                f"images of {shape[1]} x {shape[2]} pixels (image_size={self.image_size}) "
                f"do not hold one patch of {self.patch}"
            )


def _standardised(image: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Each channel of each image with mean 0 and deviation 1; zeros where all is one colour."""
    x = image.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-4)).astype(image.dtype)
