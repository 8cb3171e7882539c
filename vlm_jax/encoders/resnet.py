"""ResNet (arXiv:1512.03385), version 1.5: a bottleneck strides in its 3 x 3 convolution."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features
from vlm_jax.types import Features

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks per stage, by depth (table 1)."""

EPSILON = 1e-5
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, or with `bottleneck` a 1 x 1, a 3 x 3 and a four times wider 1 x 1.

    channels: of the 3 x 3 convolutions. stride: of the first of them, and of the shortcut.
    convolution, norm: constructors of these layers. The last norm starts with scale 0, so that a
    new block is the identity (arXiv:1706.02677, section 5.1).
    """

    channels: int
    stride: int
    bottleneck: bool
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        """Divide both sides of the map by stride, rounded up; D is channels, or 4 * channels."""
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        width = self.channels * 4 if self.bottleneck else self.channels
        strided, last = sizes.index(3), len(sizes) - 1
        y = x
        for layer, size in enumerate(sizes):
            channels = width if layer == last else self.channels
            stride = self.stride if layer == strided else 1
            y = self.convolution(channels, size, stride, name=f"conv{layer + 1}")(y)
            if layer == last:
                y = self.norm(scale_init=nn.initializers.zeros, name=f"norm{layer + 1}")(y)
            else:
                y = nn.relu(self.norm(name=f"norm{layer + 1}")(y))
        if x.shape != y.shape:
            x = self.convolution(width, 1, self.stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network; tokens are its last feature map in row-major order, `pooled` their mean.

    depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
    stages: blocks per stage instead of the depth's own, for smaller networks of the same kind.
    width: channels of the first stage; every later stage doubles them.
    stem: "imagenet" (7 x 7 with stride 2, then max pooling: 1 / 32 of the image size after four
        stages) or "small" (3 x 3 with stride 1: 1 / 8), for images of 32 to 64 pixels.
    norm: "batch", whose running statistics are the variables' "batch_stats" collection, or "group"
        (arXiv:1803.08494) with `groups` groups, which must divide all channel counts.
    frozen_statistics: batch norm uses the running statistics in training, too, and never changes
        them. False: training uses the batch's own and moves the running ones a tenth of the way
        towards them, so call apply(..., train=True, mutable=["batch_stats"]).
    classes: one more dense layer on the mean, whose scores [B, classes] become `pooled`.
    """

    depth: int = 50
    stages: tuple[int, ...] | None = None
    width: int = 64
    stem: str = "imagenet"
    norm: str = "batch"
    groups: int = 32
    frozen_statistics: bool = True
    classes: int | None = None
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

        ValueError for an unknown depth, stem or norm, or groups that do not divide the width.
        """
        self._check()
        convolution, norm = partial(_convolution, dtype=self.dtype), self._norm(train)
        x = self._stem(image.astype(self.dtype), convolution, norm)
        for stage, blocks in enumerate(self.stages or BLOCKS[self.depth]):
            for block in range(blocks):
                x = ResidualBlock(
                    channels=self.width * 2**stage,
                    stride=2 if stage and not block else 1,
                    bottleneck=self.depth >= 50,
                    convolution=convolution,
                    norm=norm,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x)
        features = image_features(x, mask)
        if self.classes is None:
            return features
        head = nn.Dense(self.classes, dtype=self.dtype, name="head")
        return features._replace(pooled=head(features.pooled))

    def _stem(self, x: Array, convolution: Callable, norm: Callable) -> Float[Array, "B H W D"]:
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = convolution(self.width, size, stride, name="stem_conv")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        if self.stem == "small":
            return x
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # no zero beats what a ReLU left
        return nn.max_pool(x, (3, 3), strides=(2, 2))

    def _norm(self, train: bool) -> Callable[..., nn.Module]:
        shared = {"epsilon": EPSILON, "dtype": self.dtype, "use_fast_variance": False}
        if self.norm == "group":
            return partial(nn.GroupNorm, num_groups=self.groups, **shared)
        running = self.frozen_statistics or not train
        return partial(nn.BatchNorm, use_running_average=running, momentum=0.9, **shared)

    def _check(self) -> None:
        if self.depth not in BLOCKS:
            raise ValueError(
                f"ResNet has depth {sorted(BLOCKS)}, not {self.depth}; set `stages` too"
            )
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f'stem={self.stem!r}: choose "imagenet" or "small"')
        if self.norm not in ("batch", "group"):
            raise ValueError(f'norm={self.norm!r}: choose "batch" or "group"')
        if self.norm == "group" and self.width % self.groups:
            most = math.gcd(self.width, self.groups)
            raise ValueError(
                f"groups={self.groups} does not divide width={self.width}: set groups={most}"
            )


def _convolution(channels: int, size: int, stride: int, *, dtype: DTypeLike, name: str) -> nn.Conv:
    """Padded by size // 2 on every side: "SAME" pads strided convolutions unevenly."""
    return nn.Conv(
        channels,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,
        use_bias=False,
        kernel_init=HE_NORMAL,
        dtype=dtype,
        name=name,
    )
