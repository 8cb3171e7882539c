"""EfficientNet (arXiv:1905.11946), and EfficientNet-Lite (github.com/tensorflow/tpu,
efficientnet/lite; 2020): without squeeze-and-excitation, with ReLU6, stem and head of one size.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.image_features import image_features
from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.constraints import platform
from vlm_jax.types import Features

Row = tuple[int, int, int, int, int]

STAGES: tuple[Row, ...] = (
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

Padding = tuple[int, int] | None
"""Zeros before and after; None as TensorFlow's "SAME" has them."""


def blocks_of(depth_multiplier: float) -> tuple[int, ...]:
    """Blocks per stage, rounded up; the first and the last stage stay as they are."""
    last = len(STAGES) - 1
    scale = lambda stage: 1.0 if stage in (0, last) else depth_multiplier
    return tuple(math.ceil(row[4] * scale(i)) for i, row in enumerate(STAGES))


def channels_of(channels: int, multiplier: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but no less than 90 % of the product."""
    wanted = channels * multiplier
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


class EfficientNet(nn.Module):
    """Map of the last stage, through a 1 x 1 convolution to `head` channels; `pooled` is its mean.

    The defaults are EfficientNet-Lite0.
    width: multiplies the channels of the stages, depth: their blocks (see MULTIPLIERS).
    stages: blocks per stage instead, for a smaller network. rows: other stages than STAGES, as they
    are, without multipliers. stem, head: channels of the first and the last convolution, the same
    for all sizes of Lite; head=None leaves the last out. squeeze: squeeze-and-excitation
    (arXiv:1709.01507) through that share of a block's input channels; None for none. activation:
    one of layers.activations. skip_first: also add the input of a stage's first block where the
    shapes allow it. padded: None pads convolutions as TensorFlow's "SAME"; or else those of stride
    2 have zeros after the map, of kernel k k // 2 of them, and one less before it, but in the
    blocks of these numbers, counted from 0, as many.
    frozen_statistics: use stored batch statistics in training too; if False, training updates them,
    and needs apply(..., train=True, mutable=["batch_stats"]).
    shifted: see `Depthwise`. classes: one more dense layer on the mean, whose scores [B, classes]
    become `pooled`.
    """

    width: float = 1.0
    depth: float = 1.0
    stages: tuple[int, ...] | None = None
    rows: tuple[Row, ...] | None = None
    stem: int = 32
    head: int | None = 1280
    squeeze: float | None = None
    activation: str = "relu6"
    epsilon: float = EPSILON
    skip_first: bool = True
    padded: tuple[int, ...] | None = None
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
        """Encode normalised images, for Lite's published weights (x - 127) / 128 of x in [0, 255].

        S: see `map_size`. mask: which tokens are real, None for all. ValueError for more stages
        than there are, or an unknown activation.
        """
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: choose from {sorted(ACTIVATIONS)}")
        running = self.frozen_statistics or not train
        pad = None if self.padded is None else (0, 1)
        x = convolution(self.stem, 3, 2, self.dtype, "stem_conv", pad)(image.astype(self.dtype))
        x = self._active(norm(running, self.dtype, "stem_norm", self.epsilon)(x))
        for name, fields in self._blocks():
            x = InvertedBottleneck(
                **fields,
                squeeze=self.squeeze,
                activation=self.activation,
                epsilon=self.epsilon,
                frozen_statistics=self.frozen_statistics,
                shifted=self.shifted,
                dtype=self.dtype,
                name=name,
            )(x, train=train)
        if self.head is not None:
            x = convolution(self.head, 1, 1, self.dtype, "last_conv")(x)
            x = self._active(norm(running, self.dtype, "last_norm", self.epsilon)(x))
        features = image_features(x, mask)
        if self.classes is None:
            return features
        scores = nn.Dense(self.classes, dtype=self.dtype, name="head")
        return features._replace(pooled=scores(features.pooled))

    @nn.nowrap
    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last map: S of them; H / 32 and W / 32 rounded up with "SAME"."""
        steps: list[tuple[int, int, Any]] = [(3, 2, None if self.padded is None else (0, 1))]
        steps += [(f["kernel"], f["stride"], f["padding"]) for _, f in self._blocks()]
        for kernel, stride, padding in steps:
            height, width = (length(side, kernel, stride, padding) for side in (height, width))
        return height, width

    @nn.nowrap
    def _active(self, x: Array) -> Array:
        return ACTIVATIONS[self.activation](x)

    @nn.nowrap
    def _blocks(self) -> list[tuple[str, dict[str, Any]]]:
        """Name of each block, and what it has for itself."""
        rows = STAGES if self.rows is None else self.rows
        stages = self.stages
        if stages is None:
            stages = blocks_of(self.depth) if self.rows is None else tuple(r[4] for r in rows)
        if len(stages) > len(rows):
            raise ValueError(f"stages={stages}: this EfficientNet has {len(rows)} stages")
        found: list[tuple[str, dict[str, Any]]] = []
        for stage, count in enumerate(stages):
            kernel, first, expansion, channels, _ = rows[stage]
            out = channels if self.rows is not None else channels_of(channels, self.width)
            for block in range(count):
                stride, padding = (1 if block else first), None
                if self.padded is not None and stride == 2:
                    padding = (kernel // 2 - (len(found) not in self.padded), kernel // 2)
                fields = dict(kernel=kernel, stride=stride, expansion=expansion, channels=out)
                fields |= dict(padding=padding, skip=block > 0 or self.skip_first)
                found.append((f"stage{stage + 1}_block{block + 1}", fields))
        return found


class InvertedBottleneck(nn.Module):
    """Wider by a 1 x 1 convolution, a depthwise one, and narrow again by a 1 x 1 without
    activation (arXiv:1801.04381, section 3.3); added to the input where the shapes allow it.

    expansion: how much wider; 1 leaves the first convolution out. channels: of what comes out.
    padding: see `Depthwise`. skip: whether the input is added. The other fields are those of
    `EfficientNet`.
    """

    kernel: int
    stride: int
    expansion: int
    channels: int
    padding: Padding
    skip: bool
    squeeze: float | None
    activation: str
    epsilon: float
    frozen_statistics: bool
    shifted: bool | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H2 W2 D"]:
        """H2 and W2 are H and W divided by stride, rounded as the padding says."""
        running, width = self.frozen_statistics or not train, self.expansion * x.shape[-1]
        normed = lambda y, name: norm(running, self.dtype, f"{name}_norm", self.epsilon)(y)
        active, y = ACTIVATIONS[self.activation], x
        if self.expansion > 1:
            y = convolution(width, 1, 1, self.dtype, "expand_conv")(y)
            y = active(normed(y, "expand"))
        fields = (self.kernel, self.stride, self.shifted, self.padding, self.dtype)
        y = active(normed(Depthwise(*fields, name="depthwise_conv")(y), "depthwise"))
        if self.squeeze is not None:
            dense = lambda size, name: nn.Conv(size, (1, 1), dtype=self.dtype, name=name)
            mean = jnp.mean(y, axis=(1, 2), keepdims=True)
            least = max(1, int(x.shape[-1] * self.squeeze))
            y = y * jax.nn.sigmoid(dense(width, "excite")(active(dense(least, "squeeze")(mean))))
        y = convolution(self.channels, 1, 1, self.dtype, "project_conv")(y)
        y = normed(y, "project")
        return x + y if self.skip and x.shape == y.shape else y


class Depthwise(nn.Module):
    """A convolution of every channel by itself.

    padding: zeros before and after, of rows and columns, below 0 to leave some of them out; None as
    TensorFlow's "SAME".
    shifted: as kernel x kernel shifted maps, each multiplied and added, which XLA compiles for CPUs
    to something 30 times faster than its grouped convolution; None does so on CPUs only.
    """

    kernel: int
    stride: int
    shifted: bool | None = None
    padding: Padding = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        """H2 and W2 are H and W divided by stride, rounded up with "SAME"."""
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        weights = self.param("kernel", HE_NORMAL, shape).astype(self.dtype)
        strides = (self.stride, self.stride)
        if not (platform() == "cpu" if self.shifted is None else self.shifted):
            layout = ("NHWC", "HWIO", "NHWC")
            grouped: dict[str, Any] = dict(
                dimension_numbers=layout, feature_group_count=x.shape[-1]
            )
            pads = "SAME" if self.padding is None else [self.padding] * 2
            return jax.lax.conv_general_dilated(x, weights, strides, pads, **grouped)
        sides = [length(side, self.kernel, self.stride, self.padding) for side in x.shape[1:3]]
        pads = [(*self._padding(side), 0) for side in x.shape[1:3]]
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
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
        """Zeros before and after; the odd one of "SAME" comes after."""
        if self.padding is not None:
            return self.padding
        whole = (-(-side // self.stride) - 1) * self.stride + self.kernel - side
        return max(whole, 0) // 2, max(whole, 0) - max(whole, 0) // 2


HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def length(side: int, kernel: int, stride: int, padding: Padding) -> int:
    """Of what a convolution leaves of `side` rows or columns."""
    return -(-side // stride) if padding is None else (side + sum(padding) - kernel) // stride + 1


def convolution(
    channels: int, size: int, stride: int, dtype: DTypeLike, name: str, padding: Padding = None
) -> nn.Conv:
    """A convolution without bias, padded as `Depthwise` is."""
    pads: Any = "SAME" if padding is None else [padding] * 2
    sides = dict(kernel_size=(size, size), strides=(stride, stride), padding=pads)
    init: dict[str, Any] = dict(kernel_init=HE_NORMAL, use_bias=False)
    return nn.Conv(channels, **sides, **init, dtype=dtype, name=name)


def norm(running: bool, dtype: DTypeLike, name: str, epsilon: float) -> nn.BatchNorm:
    """Batch normalisation. running: by the stored statistics."""
    options: dict[str, Any] = dict(momentum=0.99, epsilon=epsilon, use_fast_variance=False)
    return nn.BatchNorm(use_running_average=running, **options, dtype=dtype, name=name)
