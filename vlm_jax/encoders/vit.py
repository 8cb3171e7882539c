"""Vision Transformer (arXiv:2010.11929), and its variants in CLIP, SigLIP and MAE."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import token_mask
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.embed import resize_grid, sincos_2d
from vlm_jax.layers.masks import padding_mask
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import Mlp, Transformer
from vlm_jax.types import Features, summary

POOLINGS = ("cls", "mean", "attention", "none")
NORMAL = nn.initializers.normal(0.02)


class ConvStem(nn.Module):
    """3 x 3 convolutions with stride 2 that double the channels up to `width`, then a 1 x 1.

    patch: their total stride, a power of two (ValueError otherwise). Early convolutions make a
    Transformer easier to train (arXiv:2106.14881, section 4); the norms here are over channels, not
    over the batch, so that an example never depends on its neighbours.
    """

    patch: int
    width: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        """Map an image to H2 = H / patch rows of W2 = W / patch columns, rounded up."""
        halvings = self.patch.bit_length() - 1
        if self.patch != 2**halvings or self.width % self.patch:
            raise ValueError(
                f"a convolutional stem needs a power of two as patch, not {self.patch}, "
                f"that divides the width, {self.width}"
            )
        x = image
        for layer in range(halvings):
            channels = self.width // 2 ** (halvings - 1 - layer)
            shared = {"strides": 2, "padding": 1, "use_bias": False, "dtype": self.dtype}
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
    """Patches of an image through a Transformer; tokens are the patches in row-major order.

    patch: side of a square patch in pixels. image_size: side in pixels of the images that the
        position embeddings are made for; for another size (square or not) they are resized.
    positions: "learned", "sincos" (fixed, 2-D) or "none".
    class_token: a learned token in front of the patches. keep_class_token: leave it there in
        `tokens` (as in GIT); otherwise (LLaVA) the tokens are the patches alone.
    pooling: what `pooled` is: "cls" (the class token), "mean" (of the real patches), "attention"
        (`AttentionPooling` over everything) or "none" (None).
    classes: one more dense layer, whose scores [B, classes] become `pooled`.
    stem: "patch" (linear) or "conv" (`ConvStem`). patch_bias: of the linear one.
    pre_norm: normalise the embeddings before the first layer, as CLIP does (arXiv:2103.00020).
    final_norm: normalise the last layer's states; False with one layer less gives the
        penultimate states that LLaVA reads (arXiv:2304.08485, section 4.1).
    The others are those of `layers.transformer.Transformer`; dropout is also on the embeddings.
    The defaults are ViT-B/16 (224 pixels).
    """

    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    image_size: int = 224
    positions: str = "learned"
    class_token: bool = True
    keep_class_token: bool = False
    pooling: str = "cls"
    classes: int | None = None
    stem: str = "patch"
    patch_bias: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """Encode normalised images into S = (H // patch) * (W // patch) tokens.

        Pixels beyond the last whole patch are not seen (with stem="conv": S is rounded up instead).
        mask: which patches are real, None for all; the others influence nothing.
        ValueError for an unknown option, or images smaller than one patch.
        """
        self._check(image.shape)
        x = self._embed(image.astype(self.dtype))  # [B, H2, W2, D]
        table = self._position_table(x.shape[1:3]).astype(self.dtype)  # [S, D], [1 + S, D] with cls
        x = rearrange(x, "B H W D -> B (H W) D")
        real = token_mask(x.shape[1], x.shape[0], mask)
        if self.class_token:
            first = self.param("class_token", NORMAL, (1, 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, self.width)), x], axis=1)
            real = jnp.pad(real, ((0, 0), (1, 0)), constant_values=True)
        x = nn.Dropout(self.dropout, deterministic=not train)(x + table[None])
        if self.pre_norm:
            norm = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "embeddings_norm"}
            x = make_norm("layer", **norm)(x)
        visible = None if mask is None else padding_mask(real)
        x = self._transformer()(x, mask=visible, train=train)[0]
        return self._features(x, real, visible)

    def _embed(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B H2 W2 D"]:
        if self.stem == "conv":
            stem = ConvStem(self.patch, self.width, self.epsilon, self.dtype, name="conv_stem")
            return stem(image)
        rows, columns = image.shape[1] // self.patch, image.shape[2] // self.patch
        whole = image[:, : rows * self.patch, : columns * self.patch]
        patches = rearrange(whole, "B (H P) (W Q) C -> B H W (P Q C)", H=rows, W=columns)
        name = "patch_embedding"
        return nn.Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name=name)(patches)

    def _position_table(self, grid: tuple[int, ...]) -> Float[Array, "S D"]:
        """A row per token, resized to `grid`; with a class token its row comes first."""
        side, first = self.image_size // self.patch, int(self.class_token)
        shape = (first + side * side, self.width)
        if self.positions == "learned":
            table = self.param("position", NORMAL, shape)
        elif self.positions == "sincos":
            table = jnp.pad(sincos_2d(side, side, self.width), ((first, 0), (0, 0)))
        else:
            table = jnp.zeros(shape)
        if grid == (side, side):
            return table
        resized = resize_grid(table[first:], (side, side), (grid[0], grid[1]))
        return jnp.concatenate([table[:first], resized], axis=0)

    def _transformer(self) -> Transformer:
        return Transformer(
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            final_norm=self.final_norm,
            epsilon=self.epsilon,
            activation=self.activation,
            dropout=self.dropout,
            drop_path=self.drop_path,
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )

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
        if self.classes is not None:
            pooled = nn.Dense(self.classes, dtype=self.dtype, name="head")(pooled)
        return features._replace(pooled=pooled)

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: choose one of {POOLINGS}")
        if self.positions not in ("learned", "sincos", "none"):
            raise ValueError(f'positions={self.positions!r}: choose "learned", "sincos" or "none"')
        if self.stem not in ("patch", "conv"):
            raise ValueError(f'stem={self.stem!r}: choose "patch" or "conv"')
        if (self.pooling == "cls" or self.keep_class_token) and not self.class_token:
            raise ValueError('pooling="cls" and keep_class_token need class_token=True')
        if self.classes is not None and self.pooling == "none":
            raise ValueError('classes needs a pooled vector: set pooling to other than "none"')
        if min(*shape[1:3], self.image_size) < self.patch:
            raise ValueError(
                f"images of {shape[1]} x {shape[2]} pixels (image_size={self.image_size}) "
                f"do not hold one patch of {self.patch}"
            )
