"""Explanations by gradients: Grad-CAM, its element-wise variant, gradient x input, and integrated
gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm_jax.connectors.merge import MergeConnector
from vlm_jax.connectors.mlp import MlpConnector
from vlm_jax.connectors.pool import PoolConnector
from vlm_jax.encoders.vgg import CONVOLUTIONS, VGG
from vlm_jax.encoders.vit import ViT
from vlm_jax.insight.subject import Subject, scores
from vlm_jax.models import watch
from vlm_jax.types import Variables

IN_PLACE = (MlpConnector, MergeConnector, PoolConnector)
"""Connectors whose tokens are laid out like the picture."""


class Layer(NamedTuple):
    """Whose output Grad-CAM looks at. path: of a module; layer: which of a stack, if it is one."""

    path: str
    layer: int | None = None


def usual_layer(model: Any) -> Layer:
    """The last map that is still laid out like the picture, and that no normalisation follows.

    A normalisation forgets the length of what it reads, so that the gradient is at right angles to
    it: the products of states and gradients that a map sums would be next to nothing. Of a VGG with
    fully connected layers its last convolution; what a connector makes of every position or block
    of them; of a ViT what enters the last layer's attention, because nothing but the class token
    may matter after it; otherwise the tokens that the vision encoder hands on.
    """
    vision = model.vision
    if isinstance(vision, VGG) and vision.features == "fc2":
        return Layer(f"vision/block5_conv{CONVOLUTIONS[vision.depth][-1]}")
    if isinstance(model.connector, IN_PLACE):
        return Layer("connector")
    if isinstance(vision, ViT) and vision.layers:
        last = (vision.layers if vision.stop is None else vision.stop) - 1
        return Layer("vision/transformer/layers/self_norm", last)
    return Layer("vision")


def grad_cam(
    model: Any, variables: Variables, subject: Subject, *, at: Layer | None = None
) -> Float[Array, "B S"]:
    """Channels weighted by their mean gradient, negative sums cut off (arXiv:1610.02391, eq. 1-2).

    at: None for `usual_layer`. S positions of that layer, the class token's included if it has one.
    """
    states, slopes = _states_and_slopes(model, variables, subject, at)
    weights = jnp.mean(slopes, axis=1, keepdims=True)
    return jax.nn.relu(jnp.sum(weights * states, axis=-1))


def hires_cam(
    model: Any, variables: Variables, subject: Subject, *, at: Layer | None = None
) -> Float[Array, "B S"]:
    """Like `grad_cam`, each position with its own gradient (arXiv:2011.08891, section 3.3).

    With attention between this layer and the score, the gradient differs by position; its mean
    forgets which position was read.
    """
    states, slopes = _states_and_slopes(model, variables, subject, at)
    return jax.nn.relu(jnp.sum(slopes * states, axis=-1))


def _states_and_slopes(
    model: Any, variables: Variables, subject: Subject, at: Layer | None
) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
    """A layer's output and the gradient of the scores with respect to it."""
    at = at or usual_layer(model)

    def score(added: watch.Added) -> tuple[Array, watch.Added]:
        call = lambda given, mutable: scores(model, given, subject, mutable)
        each, watched = watch.outputs(call, variables, (at.path,), added)
        return jnp.sum(each), watched.values

    shapes = jax.eval_shape(lambda: score({})[1])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    slopes, values = jax.grad(score, has_aux=True)(zeros)
    key = (at.path, 0)
    pair = (values[key], slopes[key])
    states, slope = pair if at.layer is None else (leaf[at.layer] for leaf in pair)
    flat = lambda x: x.reshape(x.shape[0], -1, x.shape[-1])
    return flat(states), flat(slope)


def gradient_x_input(model: Any, variables: Variables, subject: Subject) -> Float[Array, "B H W"]:
    """Gradient times normalised pixel, summed over channels (arXiv:1605.01713)."""
    slope = _slope(model, variables, subject)
    return jnp.sum(slope(subject.image) * subject.image, axis=-1)


def integrated_gradients(
    model: Any,
    variables: Variables,
    subject: Subject,
    *,
    baseline: Array | None = None,
    steps: int = 16,
) -> Float[Array, "B H W"]:
    """The mean gradient on the way from a baseline to the picture, times the difference, summed
    over channels (arXiv:1703.01365, eq. 3): all pixels sum to the difference of the scores.

    baseline: like subject.image; None: each picture's median colour everywhere. steps: midpoints
    of that many equal parts of the way, one at a time in memory.
    """
    if baseline is None:
        baseline = jnp.median(subject.image, axis=(1, 2), keepdims=True)
    difference = subject.image - baseline
    slope = _slope(model, variables, subject)

    def step(total: Array, share: Array) -> tuple[Array, None]:
        return total + slope(baseline + share * difference), None

    shares = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
    total, _ = jax.lax.scan(step, jnp.zeros_like(subject.image), shares)
    return jnp.sum(total / steps * difference, axis=-1)


def _slope(model: Any, variables: Variables, subject: Subject) -> Callable[[Array], Array]:
    """The gradient of the scores with respect to the normalised picture."""
    return jax.grad(lambda image: jnp.sum(scores(model, variables, subject._replace(image=image))))
