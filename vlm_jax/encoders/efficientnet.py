"""EfficientNet-Lite (github.com/tensorflow/tpu, efficientnet/lite; 2020): EfficientNet
(arXiv:1905.11946) without squeeze-and-excitation, with ReLU6, and stem and head of one size.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features
from vlm_jax.layers.constraints import platform
from vlm_jax.types import Features

STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Kernel, stride, expansion, channels and blocks of each stage (arXiv:1905.11946, table 1)."""

MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
"""Of channels and of blocks, for Lite0 to Lite4."""

EPSILON = 1e-3


def blocks_of(depth_multiplier: float) -> tuple[int, ...]:
    """Blocks per stage, rounded up; the first and the last stage stay as they are."""
    last = len(STAGES) - 1
    scale = lambda stage: 1.0 if stage in (0, last) else depth_multiplier
    return tuple(math.ceil(row[4] * scale(i)) for i, row in enumerate(STAGES))


def channels_of(channels: int, multiplier: float) -> int:
    """The nearest multiple of 8, but no less than 90 % of the product."""
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class EfficientNetLite(nn.Module):
    """Map of the last stage through a 1 x 1 convolution to `head` channels; `pooled` is its mean.

    width: multiplies the channels of the stages, depth: their blocks (see MULTIPLIERS).
    stages: blocks per stage instead, for a smaller network. stem, head: channels of the first and
    the last convolution, the same for all sizes.
    frozen_statistics: use stored batch statistics in training too; if False, training updates them,
    and needs apply(..., train=True, mutable=["batch_stats"]).
    shifted: see `Depthwise`. classes: one more dense layer on the mean, whose scores [B, classes]
    become `pooled`.
    """

    width: float = 1.0
    depth: float = 1.0
    stages: tuple[int, ...] | None = None
    stem: int = 32
    head: int = 1280
    frozen_statistics: bool = True
    shifted: bool | None = None
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
        """Encode normalised images, for the published weights (x - 127) / 128 of x in [0, 255].

        S = ceil(H / 32) * ceil(W / 32). mask: which tokens are real, None for all. ValueError for
        more stages than there are.
        """
        stages = blocks_of(self.depth) if self.stages is None else self.stages
        if len(stages) > len(STAGES):
            raise ValueError(f"stages={stages}: EfficientNet has {len(STAGES)} stages")
        x = self._convolved(image.astype(self.dtype), self.stem, 3, 2, "stem", train)
        x = nn.relu6(x)
        for stage, count in enumerate(stages):
            kernel, stride, expansion, channels, _ = STAGES[stage]
            for block in range(count):
                x = InvertedBottleneck(
                    kernel=kernel,
                    stride=1 if block else stride,
                    expansion=expansion,
                    channels=channels_of(channels, self.width),
                    frozen_statistics=self.frozen_statistics,
                    shifted=self.shifted,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train=train)
        x = nn.relu6(self._convolved(x, self.head, 1, 1, "last", train))
        features = image_features(x, mask)
        if self.classes is None:
            return features
        scores = nn.Dense(self.classes, dtype=self.dtype, name="head")
        return features._replace(pooled=scores(features.pooled))

    @nn.nowrap
    def _convolved(
        self, x: Array, channels: int, kernel: int, stride: int, name: str, train: bool
    ) -> Float[Array, "B H W C"]:
        x = convolution(channels, kernel, stride, self.dtype, f"{name}_conv")(x)
        return norm(self.frozen_statistics or not train, self.dtype, f"{name}_norm")(x)


class InvertedBottleneck(nn.Module):
    """Wider by a 1 x 1 convolution, a depthwise one, and narrow again by a 1 x 1 without
    activation (arXiv:1801.04381, section 3.3); added to the input where the shapes allow it.

    expansion: how much wider; 1 leaves the first convolution out. channels: of what comes out. The
    other fields are those of `EfficientNetLite`.
    """

    kernel: int
    stride: int
    expansion: int
    channels: int
    frozen_statistics: bool
    shifted: bool | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H2 W2 D"]:
        """H2 and W2 are H and W divided by stride, rounded up."""
        running, width = self.frozen_statistics or not train, self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = convolution(width, 1, 1, self.dtype, "expand_conv")(y)
            y = nn.relu6(norm(running, self.dtype, "expand_norm")(y))
        fields = (self.kernel, self.stride, self.shifted, self.dtype)
        depthwise = Depthwise(*fields, name="depthwise_conv")
        y = nn.relu6(norm(running, self.dtype, "depthwise_norm")(depthwise(y)))
        y = convolution(self.channels, 1, 1, self.dtype, "project_conv")(y)
        y = norm(running, self.dtype, "project_norm")(y)
        return x + y if x.shape == y.shape else y


class Depthwise(nn.Module):
    """A convolution of every channel by itself, padded as TensorFlow's "SAME".

    shifted: as kernel x kernel shifted maps, each multiplied and added, which XLA compiles for CPUs
    to something 30 times faster than its grouped convolution; None does so on CPUs only.
    """

    kernel: int
    stride: int
    shifted: bool | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        """H2 and W2 are H and W divided by stride, rounded up."""
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        weights = self.param("kernel", HE_NORMAL, shape).astype(self.dtype)
        strides = (self.stride, self.stride)
        if not (platform() == "cpu" if self.shifted is None else self.shifted):
            layout = ("NHWC", "HWIO", "NHWC")
            grouped: dict[str, Any] = dict(
                dimension_numbers=layout, feature_group_count=x.shape[-1]
            )
            return jax.lax.conv_general_dilated(x, weights, strides, "SAME", **grouped)
        sides = [-(-side // self.stride) for side in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *(self._padding(side) for side in x.shape[1:3]), (0, 0)))
        reach = [self.stride * (side - 1) + 1 for side in sides]
        total = jnp.zeros((len(x), *sides, x.shape[-1]), self.dtype)
        for i in range(self.kernel):
            for j in range(self.kernel):
                rows = slice(i, i + reach[0], self.stride)
                columns = slice(j, j + reach[1], self.stride)
                total += x[:, rows, columns] * weights[None, None, i, j]
        return total

    @nn.nowrap
    def _padding(self, side: int) -> tuple[int, int]:
        """Zeros before and after; the odd one comes after."""
        whole = (-(-side // self.stride) - 1) * self.stride + self.kernel - side
        return max(whole, 0) // 2, max(whole, 0) - max(whole, 0) // 2


HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(channels: int, size: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    """A convolution without bias, padded as TensorFlow's "SAME"."""
    sides = dict(kernel_size=(size, size), strides=(stride, stride), padding="SAME")
    init: dict[str, Any] = dict(kernel_init=HE_NORMAL, use_bias=False)
    return nn.Conv(channels, **sides, **init, dtype=dtype, name=name)


def norm(running: bool, dtype: DTypeLike, name: str) -> nn.BatchNorm:
    """Batch normalisation. running: by the stored statistics."""
    options: dict[str, Any] = dict(momentum=0.99, epsilon=EPSILON, use_fast_variance=False)
    return nn.BatchNorm(use_running_average=running, **options, dtype=dtype, name=name)
