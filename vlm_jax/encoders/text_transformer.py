"""Transformer text encoders: BERT (arXiv:1810.04805), those of CLIP and SigLIP, and others."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.embed import RelativePositions, TokenEmbedding, insert
from vlm_jax.layers.masks import causal_mask, padding_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features, summary

POOLINGS = ("first", "last", "end", "eos", "first_eos", "largest", "mean", "none")
POOLERS = {"none": None, "linear": lambda x: x, "tanh": jnp.tanh, "idle": None}


class TransformerEncoder(nn.Module):
    """Token and position embeddings through a Transformer.

    vocab: V. max_length: longest text. positions: "learned", "sincos" or "none".
    token_types: number of segment embeddings; 0 for none.
    embedding_norm: normalise the sum of the embeddings. causal: a token sees only those before it.
    attend_padding: treat padding as text (SigLIP); the mask is then ignored and returned all True.
    pooling: which state `pooled` comes from: "first" token, "last" real one, the "end" whatever
        stands there, "eos" (the first real token `eos_id`, or the last real one where there is
        none), "first_eos" (the first token `eos_id`, real or not, or the first token of all where
        there is none, as released CLIPs have it), the token with the "largest" id, the "mean" of
        the real ones, "none".
    pooler: what follows: a "linear" layer, one with "tanh", or "none"; or an "idle" one, which is
        there for the sake of checkpoints that hold it (ALIGN). pooler_width: of that layer (None:
        width).
    relative: fields of `layers.embed.RelativePositions` (T5), or None.
    memory: how `context` is read: "attend", by the "cross" among the parts (BLIP's text encoder);
        "prepend", as if it were text before the text; "insert", in place of the tokens
        `image_token` (BLIP-2 with T5). memory_projection: a dense layer to width D for these two.
    layers: 0 leaves the embeddings as they are, for fusions that do the rest.
    norm_first=False (post-norm) has no final norm. The other fields are those of
    `layers.transformer.Transformer`; dropout is also on the embeddings.

    Published networks differ from the defaults, pre-norm and bidirectional, in:
        BERT    norm_first=False, embedding_norm=True, token_types=2, pooler="tanh", epsilon=1e-12
        CLIP    causal=True, pooling="eos", activation="quick_gelu", epsilon=1e-5
        T5      positions="none", relative={}, norm="rms", bias=False, attention={"scale": 1.0}
        SigLIP  attend_padding=True, pooling="end", pooler="linear", activation="gelu_tanh"
    """

    vocab: int
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    positions: str = "learned"
    token_types: int = 0
    embedding_norm: bool = False
    norm: str = "layer"
    norm_first: bool = True
    bias: bool = True
    memory: str = "attend"
    image_token: int | None = None
    memory_projection: bool = False
    parts: tuple[str, ...] = ("self", "mlp")
    attention: Options = NO_OPTIONS
    cross: Options = NO_OPTIONS
    mlp: Options = NO_OPTIONS
    relative: Options | None = None
    causal: bool = False
    attend_padding: bool = False
    pooling: str = "first"
    eos_id: int | None = None
    pooler: str = "none"
    pooler_width: int | None = None
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        types: Int[Array, "B T"] | None = None,
        context: Features | None = None,
        *,
        visible: Bool[Array, "B T"] | None = None,
        train: bool = False,
    ) -> Features:
        """tokens: ids in [0, V); mask: True where real; types: segments, all 0 if None.

        context: image tokens, or others; without it cross parts are left out. visible: which
        tokens attention sees, None for those that are real, or all with attend_padding.
        ValueError for an unknown option, more than max_length tokens, or types without token_types.
        """
        self._check(types)
        real = jnp.ones_like(mask) if self.attend_padding else mask
        x = self._embed(tokens, real, types, context, train)
        if context is not None and self.memory == "prepend":
            real = jnp.concatenate([context.mask, real], axis=1)
            visible = visible if visible is None else jnp.concatenate([context.mask, visible], 1)
        seen = padding_mask(real if visible is None else visible)
        if self.causal:
            seen = seen & causal_mask(x.shape[1])
        around: dict[str, Any] = {"mask": seen, "relative": self._relative(x.shape[1])}
        if context is not None and self.memory == "attend":
            around["context"] = zero_padding(context.tokens, context.mask)
            around["context_mask"] = padding_mask(context.mask)
        if self.layers:
            layers = stack(self, final_norm=self.norm_first, name="transformer")
            x, _ = layers(x, train=train, **around)
        pooled = self._pool(x[:, -tokens.shape[1] :], tokens, real[:, -tokens.shape[1] :])
        if pooled is not None and self.pooler != "none":
            width = self.pooler_width or self.width
            dense = nn.Dense(width, dtype=self.dtype, name="pooler_dense")
            after = POOLERS[self.pooler]
            pooled = after(dense(pooled)) if after else (dense(pooled), pooled)[1]
        return Features(x, real, pooled)

    def word_vectors(self) -> Float[Array, "V D"]:
        """The table of word vectors, for output layers tied to it; known once a text was read."""
        return jnp.asarray(self.variables["params"]["embedding"]["token"]["embedding"])

    def _embed(
        self,
        tokens: Array,
        real: Array,
        types: Array | None,
        context: Features | None,
        train: bool,
    ) -> Float[Array, "B L D"]:
        fields = (self.vocab, self.width, self.max_length, self.positions, self.dtype)
        embedding = TokenEmbedding(*fields, name="embedding")
        x = embedding.words(tokens)
        if context is not None and self.memory != "attend":
            x = self._join(x, tokens, real, context)
        x = embedding.in_order(x)
        if self.token_types:
            types = jnp.zeros_like(tokens) if types is None else types
            types = jnp.pad(types, ((0, 0), (x.shape[1] - tokens.shape[1], 0)))
            table = nn.Embed(
                self.token_types,
                self.width,
                embedding_init=nn.initializers.normal(0.02),
                dtype=self.dtype,
                name="type_embedding",
            )
            x = x + table(types)
        if self.embedding_norm:
            norm = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "embeddings_norm"}
            x = make_norm(self.norm, **norm)(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def _join(
        self, x: Array, tokens: Array, real: Array, context: Features
    ) -> Float[Array, "B L D"]:
        """Text and context as one sequence."""
        seen = zero_padding(context.tokens, context.mask).astype(self.dtype)
        if self.memory_projection:
            seen = nn.Dense(self.width, dtype=self.dtype, name="memory_projection")(seen)
        if self.memory == "prepend":
            return jnp.concatenate([seen, x], axis=1)
        return insert(x, (tokens == self.image_token) & real, seen, context.mask)

    def _relative(self, length: int) -> Float[Array, "1 N T T"] | None:
        if self.relative is None:
            return None
        positions = jnp.arange(length)[None]
        table = RelativePositions(self.heads, **self.relative, name="relative")
        return table(positions, positions)

    def _pool(self, x: Array, tokens: Array, real: Array) -> Float[Array, "B D"] | None:
        if self.pooling == "none":
            return None
        if self.pooling == "mean":
            return summary(Features(x, real))
        if self.pooling in ("first", "end"):
            return x[:, 0 if self.pooling == "first" else -1]
        where = x.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)  # [B], the last real position
        if self.pooling == "largest":
            where = jnp.argmax(tokens, axis=1)
        if self.pooling == "eos":
            ends = (tokens == self.eos_id) & real
            where = jnp.where(jnp.any(ends, axis=1), jnp.argmax(ends, axis=1), where)
        if self.pooling == "first_eos":
            where = jnp.argmax(tokens == self.eos_id, axis=1)
        return jnp.take_along_axis(x, where[:, None, None], axis=1)[:, 0]

    def _check(self, types: Array | None) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: choose one of {POOLINGS}")
        if self.pooler not in POOLERS:
            raise ValueError(f"pooler={self.pooler!r}: choose one of {sorted(POOLERS)}")
        if self.memory not in ("attend", "prepend", "insert"):
            raise ValueError(f'memory={self.memory!r}: choose "attend", "prepend" or "insert"')
        if self.memory == "insert" and self.image_token is None:
            raise ValueError('memory="insert" needs image_token, the id that stands for an image')
        if self.pooling in ("eos", "first_eos") and self.eos_id is None:
            raise ValueError(
                f'pooling="{self.pooling}" needs eos_id, the id of the end-of-text token'
            )
        if self.pooling == "none" and self.pooler != "none":
            raise ValueError(f'pooler={self.pooler!r} has nothing to read with pooling="none"')
        if types is not None and not self.token_types:
            raise ValueError("token types were passed to an encoder without token_types")
