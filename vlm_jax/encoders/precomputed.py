"""Image features computed beforehand: detector regions, or the output of another network."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features
from vlm_jax.types import Features


def known_features(given: Mapping[str, Array]) -> Features:
    """Features as `vlm_jax.features` keeps them: pooled f32[B, D], and tokens f16[B, S, D], or one
    token, the same vector.
    """
    pooled = given["pooled"].astype(jnp.float32)
    tokens = given["tokens"].astype(jnp.float32) if "tokens" in given else pooled[:, None]
    return Features(tokens, jnp.ones(tokens.shape[:2], bool), pooled)


class Precomputed(nn.Module):
    """Passes features on, or projects them.

    width: D of the result after a dense layer; None leaves the features as they are.
    dropout: rate in [0, 1) on the features, before the projection.
    """

    width: int | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B D"] | Float[Array, "B S D"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """One vector per image, [B, D], becomes a single token; `pooled` is the mean of the tokens.

        mask: which of the S features (1 for [B, D]) are real; None: all of them.
        ValueError if the features have another rank, as images have.
        """
        if image.ndim not in (2, 3):
            raise ValueError(
                f"precomputed features are [B, D] or [B, S, D], not {image.shape}: encode "
                "images with another vision encoder"
            )
        x = image.astype(self.dtype)
        x = x[:, None] if x.ndim == 2 else x  # [B, S, D]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.width is not None:
            x = nn.Dense(self.width, dtype=self.dtype, name="projection")(x)
        return image_features(x, mask)
