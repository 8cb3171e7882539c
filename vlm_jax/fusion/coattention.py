"""Fusion by co-attention: two streams, each looking at itself and at the other."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.masks import finite_padding, padding_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import Around, Block, Options
from vlm_jax.types import Features, concatenate, summary


class CoAttentionLayer(nn.Module):
    """One transformer block per stream; the context of each is what the other stream was before
    this layer.

    block: fields of `Block`. shared: the streams first attend to each other, both with the same
    parameters; otherwise each has its own, and attends to itself first.
    """

    block: Options
    shared: bool

    @nn.compact
    def __call__(self, streams: tuple, masks: tuple, train: bool) -> tuple[tuple, None]:
        """streams: (visual f32[B, S, D], textual f32[B, T, D]); masks: the same for their real
        tokens.
        """
        block = lambda name, *parts: Block(**self.block, parts=parts, name=name)
        (visual, textual), (visual_mask, textual_mask) = streams, masks
        layer = dict.fromkeys(("cache", "drop_path", "kind", "active"))
        around = lambda mask, context, context_mask: Around(
            mask=mask, context=context, context_mask=context_mask
        )
        looking = around(visual_mask, textual, textual_mask)
        reading = around(textual_mask, visual, visual_mask)
        parts = ("self", "cross", "mlp")
        if self.shared:
            both, parts = block("cross", "cross"), ("self", "mlp")
            visual, _ = both(visual, layer, looking, train)
            textual, _ = both(textual, layer, reading, train)
            looking, reading = around(visual_mask, None, None), around(textual_mask, None, None)
        seen, _ = block("visual", *parts)(visual, layer, looking, train)
        read, _ = block("textual", *parts)(textual, layer, reading, train)
        return (seen, read), None


class CoAttentionFusion(nn.Module):
    """Image and text streams of `layers` co-attention layers, both of width D.

    ViLBERT (arXiv:1908.02265, section 2.1) and LXMERT (arXiv:1908.07490, section 2.2), with the
    parts of a layer in the order of METER (arXiv:2111.02387, section 3.2): self-attention,
    cross-attention, MLP.

    shared: cross-attention comes first and is one module for both directions, as LXMERT has it.
    projections: of both streams to `width`. pooling: a tanh layer over the means of "both" streams,
    or over the "first" token of the text, even if it is padding, as the released LXMERT has it.
    heads: N, a divisor of width (ValueError otherwise). The others are those of
    `layers.transformer.Block`.
    """

    width: int
    layers: int = 2
    heads: int = 8
    mlp_width: int = 1024
    norm_first: bool = False
    shared: bool = False
    projections: bool = True
    pooling: str = "both"
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, S + T, D], visual ones first."""
        if self.pooling not in ("both", "first"):
            raise ValueError(f'pooling={self.pooling!r}: choose "both" or "first"')
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
        streams = [_padded(visual), _padded(textual)]
        if self.projections:
            streams = [dense("visual")(streams[0]), dense("textual")(streams[1])]
        scan = nn.scan(
            CoAttentionLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]  flax's stub knows ints only
            length=self.layers,
            check_constancy_invariants=False,
        )
        fields = ("heads", "mlp_width", "norm_first", "activation", "epsilon", "dropout", "dtype")
        block = {name: getattr(self, name) for name in fields}
        masks = (padding_mask(visual.mask), padding_mask(textual.mask))
        if self.layers:
            streams, _ = scan(block, self.shared, name="layers")(tuple(streams), masks, train)
        options = {"epsilon": self.epsilon, "dtype": self.dtype}
        norm = lambda name, x: make_norm("layer", **options, name=name)(x) if self.norm_first else x
        visual = Features(norm("visual_norm", streams[0]), visual.mask)
        textual = Features(norm("textual_norm", streams[1]), textual.mask)
        summaries = textual.tokens[:, 0]
        if self.pooling == "both":
            summaries = jnp.concatenate([summary(visual), summary(textual)], axis=-1)
        return concatenate(visual, textual)._replace(pooled=jnp.tanh(dense("pooled")(summaries)))


def _padded(stream: Features) -> Float[Array, "B S D"]:
    """A stream with its padding, whose first token may be asked for; zeros where nothing is real
    and the other stream would look at it.
    """
    some = jnp.any(stream.mask, axis=1, keepdims=True)
    return zero_padding(finite_padding(stream.tokens, stream.mask), stream.mask | some)
