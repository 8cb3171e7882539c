"""Cross-entropy of scores that are all there at once, per example, in nats."""

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
    return mean_over_targets(token_cross_entropy(logits, targets, label_smoothing), mask)


def token_cross_entropy(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], label_smoothing: float = 0.0
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target; see `masked_cross_entropy`."""
    logits = logits.astype(
        jnp.float32
    )  # a bf16 log-sum-exp over V = 257,152 loses the small probabilities
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)  # [B, T]
    nll = log_normaliser - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        uniform = log_normaliser - jnp.mean(logits, axis=-1)
        nll = (1.0 - label_smoothing) * nll + label_smoothing * uniform
    return nll


def mean_over_targets(
    nll: Float[Array, "B T"], mask: Bool[Array, "B T"], segments: Int[Array, "B T"] | None = None
) -> Float[Array, " B"]:
    """The mean over each row's unmasked tokens, 0 where there are none.

    segments: which of several examples of the row a token belongs to, from 1 on, 0 for none. Each
    example then counts alike: the mean over rows of what is returned is the mean over examples.
    """
    if segments is None:
        return jnp.sum(nll * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
    same = segments[:, :, None] == segments[:, None]
    own = jnp.sum(same & mask[:, None], axis=-1)  # [B, T]
    examples = jnp.sum(jnp.max(segments, axis=-1))
    means = jnp.sum(nll * mask / jnp.maximum(own, 1), axis=-1)
    return means * len(segments) / jnp.maximum(examples, 1)


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
