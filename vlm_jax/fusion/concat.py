"""Late fusion by concatenation: two summaries side by side, projected."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.types import Features, concatenate, summary


class ConcatFusion(nn.Module):
    """Pooled: a dense layer over [visual summary; text summary]. Tokens: both sets projected, side
    by side.

    width: D of the result. activation: a name in layers.activations.ACTIVATIONS (KeyError
    otherwise), applied to the pooled vector, as is dropout. product: a third summary beside the
    two, the product of both after a projection each (low-rank bilinear pooling, arXiv:1610.04325,
    section 3): what compares question and picture, as "is the shape red?" asks, need not be learned
    from their sum. The early VQA baselines (arXiv:1505.00468, section 4) and ResNet + GRU
    classifiers.
    """

    width: int
    product: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, S + T, D], visual ones first."""
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
        both = concatenate(
            visual._replace(tokens=dense("visual")(visual.tokens)),
            textual._replace(tokens=dense("textual")(textual.tokens)),
        )
        summaries = [summary(visual), summary(textual)]
        if self.product:
            summaries.append(dense("seen")(summaries[0]) * dense("asked")(summaries[1]))
        pooled = dense("pooled")(jnp.concatenate(summaries, axis=-1))
        pooled = ACTIVATIONS[self.activation](pooled)
        return both._replace(pooled=nn.Dropout(self.dropout, deterministic=not train)(pooled))
