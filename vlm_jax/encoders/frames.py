"""Several frames of a video as one set of tokens, as GIT reads them (arXiv:2205.14100, 3.3)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.vit import ViT
from vlm_jax.types import Features


class FrameEncoder(nn.Module):
    """A ViT over every frame by itself; the tokens of frame i get the i-th of `frames` vectors.

    frames: most frames of a video. vit: fields of `encoders.vit.ViT`. One picture, [B, H, W, 3], is
    encoded without these vectors.
    """

    frames: int
    vit: Mapping[str, Any]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"] | Float[Array, "B F H W 3"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """The frames' tokens one frame after the other, [B, F * S, D]; no pooled vector of several.

        mask: which patches are real, the same for all frames. ValueError for more than `frames`.
        """
        fields: dict[str, Any] = {"dtype": self.dtype, **self.vit}
        encode = ViT(**fields, name="vit")
        shape = (self.frames, 1, 1, encode.width)
        time = self.param("time", nn.initializers.zeros_init(), shape)
        if image.ndim == 4:
            return encode(image, mask, train=train)
        batch, frames = image.shape[:2]
        if frames > self.frames:
            raise ValueError(f"{frames} frames do not fit frames={self.frames}: use fewer")
        mask = None if mask is None else jnp.repeat(mask, frames, axis=0)
        seen = encode(image.reshape(batch * frames, *image.shape[2:]), mask, train=train)
        tokens = seen.tokens.reshape(batch, frames, *seen.tokens.shape[1:])
        tokens = tokens + jnp.asarray(time, self.dtype)[None, :frames, 0]
        tokens = tokens.reshape(batch, -1, encode.width)
        return Features(tokens, seen.mask.reshape(batch, -1))
