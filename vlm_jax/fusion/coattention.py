"""Fusion by co-attention: two streams, each looking at itself and at the other."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.transformer import Block
from vlm_jax.types import Features, concatenate, summary


class CoAttentionLayer(nn.Module):
    """One transformer block per stream; the context of each is what the other stream was before
    this layer.
    """

    heads: int
    mlp_width: int
    norm_first: bool
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, streams: tuple, masks: tuple, train: bool) -> tuple[tuple, None]:
        """streams: (visual f32[B, S, D], textual f32[B, T, D]); masks: the same for their real
        tokens.
        """
        block = lambda name: Block(
            self.heads,
            self.mlp_width,
            norm_first=self.norm_first,
            cross_attention=True,
            dropout=self.dropout,
            dtype=self.dtype,
            name=name,
        )
        (visual, textual), (visual_mask, textual_mask) = streams, masks
        seen, _ = block("visual")(
            visual, None, None, visual_mask, textual, textual_mask, None, train
        )
        read, _ = block("textual")(
            textual, None, None, textual_mask, visual, visual_mask, None, train
        )
        return (seen, read), None


class CoAttentionFusion(nn.Module):
    """Image and text streams of `layers` co-attention layers, both of width D.

    ViLBERT (arXiv:1908.02265, section 2.1) and LXMERT (arXiv:1908.07490, section 2.2), with the
    parts of a layer in the order of METER (arXiv:2111.02387, section 3.2): self-attention,
    cross-attention, MLP. Pooled: a tanh layer over the means of both streams. heads: N, a divisor
    of width (ValueError otherwise).
    """

    width: int
    layers: int = 2
    heads: int = 8
    mlp_width: int = 1024
    norm_first: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, S + T, D], visual ones first."""
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
        streams = (
            dense("visual")(zero_padding(visual.tokens, visual.mask)),
            dense("textual")(zero_padding(textual.tokens, textual.mask)),
        )
        scan = nn.scan(
            CoAttentionLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]  flax's stub knows ints only
            length=self.layers,
        )
        layers = scan(
            self.heads, self.mlp_width, self.norm_first, self.dropout, self.dtype, name="layers"
        )
        masks = (padding_mask(visual.mask), padding_mask(textual.mask))
        streams, _ = layers(streams, masks, train)
        norm = lambda name, x: (
            nn.LayerNorm(dtype=self.dtype, name=name)(x) if self.norm_first else x
        )
        visual = Features(norm("visual_norm", streams[0]), visual.mask)
        textual = Features(norm("textual_norm", streams[1]), textual.mask)
        summaries = jnp.concatenate([summary(visual), summary(textual)], axis=-1)
        return concatenate(visual, textual)._replace(pooled=jnp.tanh(dense("pooled")(summaries)))
