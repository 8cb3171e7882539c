"""VGG (arXiv:1409.1556): stacks of 3 x 3 convolutions, as the first neural captioners used."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features, token_mask
from vlm_jax.layers.constraints import BATCH, SPLIT, constrain
from vlm_jax.types import Features

CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions per block, by depth: configurations A, B, D and E of table 1."""

CHANNELS = (1, 2, 4, 8, 8)
"""Channels per block, in units of `width`."""

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class VGG(nn.Module):
    """VGG-11, 13, 16 or 19.

    depth: one of these. features: what is handed on,
        "map"  the last block's feature map before its pooling, as Show, Attend and Tell reads it
               (arXiv:1502.03044, section 3.1.1): 14 x 14 tokens of 512 for 224 x 224 images;
               `pooled` is their mean. No fully connected layers are made.
        "fc2"  the 4,096 activations of the second fully connected layer, as `pooled` and as the
               only token. All images must then have the size that the parameters were made for,
               unless `grid` is set.
    classes: with "fc2", one more dense layer, whose scores [B, classes] become `pooled`.
    grid: with "fc2", average the last map over grid x grid areas first, as torchvision does with
        7; None to leave it as it is.
    width, fc_width: channels of the first block and units of the fully connected layers.
    dropout: after each of these layers, in [0, 1); the paper trains with 0.5.
    """

    depth: int = 16
    features: str = "map"
    classes: int | None = None
    grid: int | None = None
    width: int = 64
    fc_width: int = 4096
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """Encode normalised images; mask: which of the resulting S tokens are real, None for all.

        ValueError for another depth or kind of features, or images smaller than 32 pixels.
        """
        self._check(image.shape)
        x = image.astype(self.dtype)
        for block, convolutions in enumerate(CONVOLUTIONS[self.depth]):
            if block:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for layer in range(convolutions):
                name = f"block{block + 1}_conv{layer + 1}"
                channels = self.width * CHANNELS[block]
                x = constrain(nn.relu(self._convolution(channels, name)(x)), BATCH)
        if self.features == "map":
            return image_features(x, mask)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        if self.grid is not None:
            rows, columns = (_areas(size, self.grid) for size in x.shape[1:3])
            x = jnp.einsum("gh,kw,BhwC->BgkC", rows, columns, x)
        # Row, column, channel: other frameworks flatten channels first.
        x = x.reshape(x.shape[0], -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.fc_width, dtype=self.dtype, name=name)(x))
            x = constrain(x, BATCH, SPLIT)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        pooled = x
        if self.classes is not None:
            pooled = nn.Dense(self.classes, dtype=self.dtype, name="head")(x)
        return Features(x[:, None], token_mask(1, x.shape[0], mask), pooled)

    def _convolution(self, channels: int, name: str) -> nn.Conv:
        return nn.Conv(
            channels, (3, 3), padding=1, kernel_init=HE_NORMAL, dtype=self.dtype, name=name
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.depth not in CONVOLUTIONS:
            raise ValueError(f"VGG has depth {sorted(CONVOLUTIONS)}, not {self.depth}")
        if self.features not in ("map", "fc2"):
            raise ValueError(f'features={self.features!r}: choose "map" or "fc2"')
        if self.classes is not None and self.features != "fc2":
            raise ValueError('VGG classifies from its fully connected layers: set features="fc2"')
        if min(shape[1:3]) < 32:
            raise ValueError(f"VGG halves images five times: {shape[1:3]} is below 32 x 32 pixels")


def _areas(old: int, new: int) -> np.ndarray:
    """Weights [new, old] of the means of `new` areas, which overlap where old is no multiple."""
    weights = np.zeros((new, old), np.float32)
    for area in range(new):
        first, last = area * old // new, -(-(area + 1) * old // new)
        weights[area, first:last] = 1 / (last - first)
    return weights
