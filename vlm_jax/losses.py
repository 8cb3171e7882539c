"""Losses per example, in nats: nothing here takes a mean over the batch. The one reduction happens
in the train step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """Mean negative log-likelihood (nats per token) of each example's unmasked targets; 0 where all
    are masked.

    label_smoothing in [0, 1): this share of the target is spread evenly over the vocabulary
    (arXiv:1512.00567, section 7).
    """
    logits = logits.astype(
        jnp.float32
    )  # a bf16 log-sum-exp over V = 257,152 loses the small probabilities
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)  # [B, T]
    nll = log_normaliser - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        uniform = log_normaliser - jnp.mean(logits, axis=-1)
        nll = (1.0 - label_smoothing) * nll + label_smoothing * uniform
    return jnp.sum(nll * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def softmax_cross_entropy(
    logits: Float[Array, "B C"], label: Int[Array, " B"], *, label_smoothing: float = 0.0
) -> Float[Array, " B"]:
    """Negative log-likelihood of one class per example."""
    ones = jnp.ones((logits.shape[0], 1), bool)
    return masked_cross_entropy(
        logits[:, None], label[:, None], ones, label_smoothing=label_smoothing
    )


def binary_cross_entropy(
    logits: Float[Array, "B C"], weights: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """Sum over classes of the binary cross-entropy against soft targets in [0, 1], as VQA models
    use (arXiv:1708.02711).
    """
    logits = logits.astype(jnp.float32)
    return jnp.sum(
        -weights * jax.nn.log_sigmoid(logits) - (1 - weights) * jax.nn.log_sigmoid(-logits), axis=-1
    )


def contrastive_softmax(
    image: Float[Array, "B E"], text: Float[Array, "B E"], scale: Float[Array, ""]
) -> Float[Array, " B"]:
    """InfoNCE in both directions, averaged: each image picks its text among the batch's, each text
    its image.

    image, text: unit vectors, row i of one belongs to row i of the other. scale: inverse
    temperature. CLIP (arXiv:2103.00020), figure 3. An untrained model scores ln B.
    """
    logits = scale * jnp.einsum("iE,jE->ij", image, text, preferred_element_type=jnp.float32)
    own = jnp.diagonal(logits)
    to_text = jax.nn.logsumexp(logits, axis=1) - own
    to_image = jax.nn.logsumexp(logits, axis=0) - own
    return (to_text + to_image) / 2


def contrastive_sigmoid(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, " B"]:
    """Every image-text pair is a yes/no question; summed over the texts for each image.

    SigLIP (arXiv:2303.15343), equation 1: `bias` starts at -10 since nearly all pairs are negative.
    """
    logits = scale * jnp.einsum("iE,jE->ij", image, text, preferred_element_type=jnp.float32) + bias
    signs = 2.0 * jnp.eye(image.shape[0]) - 1.0
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1)
