"""From what an image encoder computed to `Features`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vlm_jax.types import Features, summary


def image_features(
    tokens: Float[Array, "B S D"] | Float[Array, "B H W D"], mask: Bool[Array, "B S"] | None
) -> Features:
    """Features with the mean of the real tokens as `pooled`; a map [B, H, W, D] is read row by row.

    mask: which of the S tokens are real, None for all. ValueError if it has another number of them.
    """
    tokens = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])  # [B, S, D]
    mask = token_mask(tokens.shape[1], tokens.shape[0], mask)
    return Features(tokens, mask, summary(Features(tokens, mask)))


def token_mask(length: int, batch: int, mask: Bool[Array, "B S"] | None) -> Bool[Array, "B S"]:
    """`mask`, or all True [batch, length] for None. ValueError if its shape differs from that."""
    if mask is None:
        return jnp.ones((batch, length), bool)
    if mask.shape != (batch, length):
        raise ValueError(
            f"the image mask has shape {mask.shape}, but the encoder makes {length} tokens "
            f"for each of {batch} images: pass a mask of shape {(batch, length)}"
        )
    return mask
