"""From what an image encoder computed to `Features`."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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


def block_order(rows: int, columns: int, side: int) -> np.ndarray:
    """The patches of a grid, i32[rows * columns], block after block of side x side neighbours.

    ValueError if the blocks do not fill the grid. rows = columns = 4, side = 2:
        0 1 4 5  2 3 6 7  8 9 12 13  10 11 14 15
    """
    if rows % side or columns % side:
        raise ValueError(
            f"{rows} x {columns} patches are not whole blocks of {side} x {side}: use images whose "
            "sides hold a multiple of that many patches"
        )
    numbers = np.arange(rows * columns).reshape(rows // side, side, columns // side, side)
    return numbers.transpose(0, 2, 1, 3).reshape(-1)


def grid_places(rows: int, columns: int) -> Int[Array, "S 3"]:
    """Frame (0), row and column of each patch of an image, in row-major order."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return jnp.asarray(np.stack([0 * row, row, column], axis=-1).reshape(-1, 3), jnp.int32)


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
