"""ResNet (arXiv:1512.03385), version 1.5: a bottleneck strides in its 3 x 3 convolution."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features
from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.constraints import BATCH, constrain
from vlm_jax.layers.embed import resize_grid
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
    """Two 3 x 3 convolutions, or with `bottleneck` a 1 x 1, a 3 x 3 and a 1 x 1.

    channels: of the 3 x 3 convolutions. width: of what comes out. stride: of the first of them, and
    of the shortcut. stride_first: of the first 1 x 1 instead (the paper's version 1). averaged:
    both strides are average pooling, after the 3 x 3 and before the shortcut's convolution (CLIP).
    activation: at the end; there are ReLUs between the convolutions. convolution, norm:
    constructors of these layers. The last norm starts with scale 0, so that a new block is the
    identity (arXiv:1706.02677, section 5.1).
    """

    channels: int
    width: int
    stride: int
    bottleneck: bool
    stride_first: bool
    averaged: bool
    activation: str
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 D"]:
        """Divide both sides of the map by stride, rounded up, or down if averaged; D is width."""
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        strided, last = 0 if self.stride_first else sizes.index(3), len(sizes) - 1
        stride = 1 if self.averaged else self.stride
        y = x
        for layer, size in enumerate(sizes):
            channels = self.width if layer == last else self.channels
            step = stride if layer == strided else 1
            y = self._average(y) if layer == strided + 1 else y
            y = self.convolution(channels, size, step, name=f"conv{layer + 1}")(y)
            if layer == last:
                y = self.norm(scale_init=nn.initializers.zeros, name=f"norm{layer + 1}")(y)
            else:
                y = nn.relu(self.norm(name=f"norm{layer + 1}")(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.convolution(self.width, 1, stride, name="shortcut_conv")(self._average(x))
            x = self.norm(name="shortcut_norm")(x)
        return constrain(ACTIVATIONS[self.activation](x + y), BATCH)

    def _average(self, x: Array) -> Array:
        window = (self.stride, self.stride)
        return nn.avg_pool(x, window, strides=window) if self.averaged else x


class MeanQueryPooling(nn.Module):
    """The mean of a map attends to itself and the map: CLIP's ResNets (arXiv:2103.00020, 2.4).

    side: rows and columns of the map that the position embeddings are made for; for another they
    are resized. width: of what comes out.
    """

    side: int
    heads: int
    width: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Pool a map; D is width, or C."""
        normal = nn.initializers.normal(x.shape[-1] ** -0.5)
        table = self.param("position", normal, (1 + self.side**2, x.shape[-1]))
        grid = (x.shape[1], x.shape[2])
        if grid != (self.side, self.side):
            resized = resize_grid(table[1:], (self.side, self.side), grid)
            table = jnp.concatenate([table[:1], resized])
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
        x = x + table.astype(self.dtype)[None]
        attention = Attention(self.heads, out_width=self.width, dtype=self.dtype, name="attention")
        return attention(x[:, :1], x)[0][:, 0]


class ResNet(nn.Module):
    """A residual network; tokens are its last feature map in row-major order, `pooled` their mean.

    depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks). bottleneck: None for the depth's.
    stages: blocks per stage instead of the depth's own, for smaller networks of the same kind.
    width: channels of the first stage; every later stage doubles them. widths: of what comes out of
        each stage instead (a bottleneck's inner channels are a quarter of it). stem_width: of the
        stem (None: width).
    stem: "imagenet" (7 x 7 with stride 2, then max pooling: 1 / 32 of the image size after four
        stages), "deep" (three 3 x 3 of which the first has stride 2, then average pooling) or
        "small" (3 x 3 with stride 1: 1 / 8), for images of 32 to 64 pixels.
    first_stride: of the first stage. stride_first, averaged: see ResidualBlock. activation: of the
        stem and the ends of blocks.
    pooling: of `pooled`, "mean" or "attention" (`MeanQueryPooling` with pooling_heads and
        pooled_width, for images of image_size pixels).
    norm: "batch", whose running statistics are the variables' "batch_stats" collection, or "group"
        (arXiv:1803.08494) with `groups` groups, which must divide all channel counts.
    frozen_statistics: batch norm uses the running statistics in training, too, and never changes
        them. False: training uses the batch's own and moves the running ones a tenth of the way
        towards them, so call apply(..., train=True, mutable=["batch_stats"]).
    classes: one more dense layer on the mean, whose scores [B, classes] become `pooled`.
    """

    depth: int = 50
    bottleneck: bool | None = None
    stages: tuple[int, ...] | None = None
    width: int = 64
    widths: tuple[int, ...] | None = None
    stem_width: int | None = None
    stem: str = "imagenet"
    first_stride: int = 1
    stride_first: bool = False
    averaged: bool = False
    activation: str = "relu"
    pooling: str = "mean"
    pooling_heads: int = 32
    pooled_width: int | None = None
    image_size: int = 224
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
        x = constrain(self._stem(image.astype(self.dtype), convolution, norm), BATCH)
        bottleneck = self.depth >= 50 if self.bottleneck is None else self.bottleneck
        times = 4 if bottleneck else 1
        for stage, blocks in enumerate(self.stages or BLOCKS[self.depth]):
            width = self.widths[stage] if self.widths else times * self.width * 2**stage
            for block in range(blocks):
                x = ResidualBlock(
                    channels=width // times,
                    width=width,
                    stride=1 if block else (2 if stage else self.first_stride),
                    bottleneck=bottleneck,
                    stride_first=self.stride_first,
                    averaged=self.averaged,
                    activation=self.activation,
                    convolution=convolution,
                    norm=norm,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x)
        features = image_features(x, mask)
        if self.pooling == "attention":
            side, heads = self.image_size // 32, self.pooling_heads
            pool = MeanQueryPooling(side, heads, self.pooled_width, self.dtype, name="pooling")
            features = features._replace(pooled=pool(x))
        if self.classes is None:
            return features
        head = nn.Dense(self.classes, dtype=self.dtype, name="head")
        return features._replace(pooled=head(features.pooled))

    def _stem(self, x: Array, convolution: Callable, norm: Callable) -> Float[Array, "B H W D"]:
        width, activation = self.stem_width or self.width, ACTIVATIONS[self.activation]
        if self.stem == "deep":
            for layer, channels in enumerate((width // 2, width // 2, width)):
                stride, name = 1 if layer else 2, f"stem_conv{layer + 1}"
                x = convolution(channels, 3, stride, name=name)(x)
                x = activation(norm(name=f"stem_norm{layer + 1}")(x))
            return nn.avg_pool(x, (2, 2), strides=(2, 2))
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = convolution(width, size, stride, name="stem_conv")(x)
        x = activation(norm(name="stem_norm")(x))
        if self.stem == "small":
            return x
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
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
        if self.stem not in ("imagenet", "deep", "small"):
            raise ValueError(f'stem={self.stem!r}: choose "imagenet", "deep" or "small"')
        if self.pooling not in ("mean", "attention"):
            raise ValueError(f'pooling={self.pooling!r}: choose "mean" or "attention"')
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
