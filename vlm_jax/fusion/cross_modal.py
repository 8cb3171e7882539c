"""Single-stream fusion: one transformer over image and text tokens together."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.masks import finite_padding, padding_mask
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features, concatenate, summary

POOLINGS = ("first", "start", "class", "mean", "before_last")


class CrossModalFusion(nn.Module):
    """A bidirectional transformer over [visual; text] tokens that are told apart by segment
    embeddings.

    VisualBERT (arXiv:1908.03557, section 3.2): norm_first=False, pooling="first". ViLT
    (arXiv:2102.03334, section 3.1): norm_first=True; the paper pools at a learned token of the
    text. Image tokens are projected to `width` unless visual_projection is False, text tokens only
    if theirs differs. segments: rows of the table of segments, 0 for none; the first two are that
    of the image and that of the text.
    pooling: "first" real text token, the token at the "start" of the text even if it is padding, as
        the released ViLT and VisualBERT do with texts that are padded on the left, a learned
        "class" token that is prepended and not returned, or "mean" of all real tokens; a tanh layer
        follows. Or "before_last": the state of the text
        token before the last real one as it is, as released for VisualBERT's answers; the layer is
        there all the same, for the sake of checkpoints that hold it. ValueError otherwise.
    images: how many images a text has, all of as many tokens. It is read with each of them by
        itself, the further ones in segments 2, 3, ...; the vectors that this pools stand side by
        side, [B, images * D] (ViLT, section 4.3). ValueError if there are too few segments.
    heads: N, a divisor of width. The others are those of `layers.transformer.Transformer`.
    """

    width: int
    layers: int = 4
    heads: int = 8
    mlp_width: int = 1024
    norm_first: bool = False
    visual_projection: bool = True
    segments: int = 2
    pooling: str = "first"
    images: int = 1
    attention: Options = NO_OPTIONS
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, S + T, D], visual ones first; of several images those of each with the
        text, one behind the other, [B, S + images * T, D].
        """
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: choose one of {POOLINGS}")
        batch, count = len(visual.tokens), self.images
        if count > 1:
            visual, textual = self._one_by_one(visual, textual)
        both = self._embed(visual, textual)
        if not self.norm_first:
            norm = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "embed_norm"}
            both = both._replace(tokens=make_norm("layer", **norm)(both.tokens))
        both = both._replace(tokens=nn.Dropout(self.dropout, deterministic=not train)(both.tokens))
        if self.pooling == "class":
            both = concatenate(self._class_token(len(both.tokens)), both)
        layers = stack(self, final_norm=self.norm_first, name="transformer")
        x, _ = layers(both.tokens, mask=padding_mask(both.mask), train=train)
        pooled = self._pool(x, both, textual)
        squashed = jnp.tanh(nn.Dense(self.width, dtype=self.dtype, name="pooled")(pooled))
        pooled = pooled if self.pooling == "before_last" else squashed
        length = visual.tokens.shape[1] + textual.tokens.shape[1]
        fused = Features(x[:, -length:], both.mask[:, -length:], pooled)
        if count == 1:
            return fused
        tokens, mask = (x.reshape(batch, count * length, *x.shape[2:]) for x in fused[:2])
        return Features(tokens, mask, pooled.reshape(batch, -1))

    def _one_by_one(self, visual: Features, textual: Features) -> tuple[Features, Features]:
        """Each image with its text, [B * images, ...]."""
        count, tokens = self.images, visual.tokens.shape[1]
        if self.segments <= count or tokens % count:
            raise ValueError(
                f"images={count} needs {count + 1} segments, of which there are {self.segments}, "
                f"and {count} images of one size, whose tokens are {tokens} here"
            )
        apart = lambda x: x.reshape(-1, tokens // count, *x.shape[2:])
        repeated = (jnp.repeat(x, count, axis=0) for x in textual[:2])
        return Features(apart(visual.tokens), apart(visual.mask)), Features(*repeated)

    def _embed(self, visual: Features, textual: Features) -> Features:
        """Both token sets at one width, plus the embedding of their segment: 0 image, 1 text."""
        seen = finite_padding(visual.tokens, visual.mask)
        read = finite_padding(textual.tokens, textual.mask)
        if self.visual_projection:
            seen = nn.Dense(self.width, dtype=self.dtype, name="visual")(seen)
        if read.shape[-1] != self.width:
            read = nn.Dense(self.width, dtype=self.dtype, name="textual")(read)
        if not self.segments:
            return concatenate(Features(seen, visual.mask), Features(read, textual.mask))
        shape = (self.segments, 1, 1, self.width)
        segment = self.param("segment", nn.initializers.normal(0.02), shape).astype(self.dtype)
        first = segment[0]
        if self.images > 1:
            rows = jnp.concatenate([segment[:1], segment[2 : self.images + 1]])[:, 0]  # [N, 1, D]
            first = jnp.tile(rows, (len(seen) // self.images, 1, 1))
        return concatenate(
            Features(seen + first, visual.mask), Features(read + segment[1], textual.mask)
        )

    def _class_token(self, batch: int) -> Features:
        token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width))
        return Features(token, jnp.ones((batch, 1), bool))

    def _pool(
        self, x: Float[Array, "B M D"], both: Features, textual: Features
    ) -> Float[Array, "B D"]:
        if self.pooling == "mean":
            return summary(Features(x, both.mask))
        if self.pooling == "class":
            return x[:, 0]
        if self.pooling == "before_last":
            place = jnp.maximum(jnp.sum(textual.mask, axis=1) - 2, 0)  # [B]
        elif self.pooling == "start":
            place = jnp.zeros(len(x), jnp.int32)
        else:
            place = jnp.argmax(textual.mask, axis=1)
        place = x.shape[1] - textual.mask.shape[1] + place
        return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
