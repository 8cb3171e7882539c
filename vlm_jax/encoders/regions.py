"""Regions that a detector found: their features and boxes as image tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.encoders.image_features import token_mask
from vlm_jax.layers.masks import finite_padding, padding_mask
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features


class RegionEncoder(nn.Module):
    """A dense layer over each region's feature vector, and perhaps a Transformer over all regions.

    width: D. box_width: how many of the last numbers of a region say where it is; above 0, features
        and box are projected and normalised by themselves and averaged (LXMERT, arXiv:1908.07490,
        section 2.1).
    types, positions: sizes of tables whose vectors of each region's type (1 if not given) and of
        position 0 are added (VisualBERT, arXiv:1908.03557, section 3.2); 0 for none.
    The others are those of `layers.transformer.Transformer`.
    """

    width: int
    box_width: int = 0
    types: int = 0
    positions: int = 0
    layers: int = 0
    heads: int = 8
    mlp_width: int = 1024
    norm_first: bool = False
    attention: Options = NO_OPTIONS
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B S C"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        types: Int[Array, "B S"] | None = None,
        train: bool = False,
    ) -> Features:
        """Tokens f32[B, S, D] of S regions; no pooled vector.

        image: features, the boxes behind them. mask: which regions are real, None for all of them.
        """
        real = token_mask(image.shape[1], len(image), mask)
        x = self._embed(finite_padding(image, real).astype(self.dtype))
        if self.types:
            types = jnp.ones(real.shape, jnp.int32) if types is None else types
            x = x + nn.Embed(self.types, self.width, dtype=self.dtype, name="type")(types)
        if self.positions:
            shape = (self.positions, self.width)
            position = self.param("position", nn.initializers.normal(0.02), shape)
            x = x + jnp.asarray(position, self.dtype)[None, :1]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.layers:
            layers = stack(self, final_norm=self.norm_first, name="transformer")
            x, _ = layers(x, mask=padding_mask(real), train=train)
        return Features(x, real)

    def _embed(self, image: Float[Array, "B S C"]) -> Float[Array, "B S D"]:
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
        if not self.box_width:
            return dense("features")(image)
        norm = lambda name: make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name=name)
        features, boxes = image[..., : -self.box_width], image[..., -self.box_width :]
        x = norm("features_norm")(dense("features")(features))
        return (x + norm("boxes_norm")(dense("boxes")(boxes))) / 2
