"""Losses per example, in nats: nothing here takes a mean over the batch. The one reduction happens
in the train step.
"""

from vlm_jax.losses.contrastive import contrastive_sigmoid, contrastive_softmax
from vlm_jax.losses.cross_entropy import (
    binary_cross_entropy,
    masked_cross_entropy,
    softmax_cross_entropy,
)
from vlm_jax.losses.vocabulary import (
    Unembedding,
    blocked_cross_entropy,
    written_cross_entropy,
)

__all__ = [
    "Unembedding",
    "binary_cross_entropy",
    "blocked_cross_entropy",
    "contrastive_sigmoid",
    "contrastive_softmax",
    "masked_cross_entropy",
    "softmax_cross_entropy",
    "written_cross_entropy",
]
