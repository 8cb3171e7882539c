"""Transformer text encoders: BERT (arXiv:1810.04805), those of CLIP and SigLIP, and others."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.embed import TokenEmbedding
from vlm_jax.layers.masks import causal_mask, padding_mask
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Features, summary

POOLINGS = ("first", "last", "eos", "mean", "none")
POOLERS = {"none": None, "linear": lambda x: x, "tanh": jnp.tanh}


class TransformerEncoder(nn.Module):
    """Token and position embeddings through a Transformer.

    vocab: V. max_length: longest text. positions: "learned", "sincos" or "none".
    token_types: number of segment embeddings; 0 for none.
    embedding_norm: normalise the sum of the embeddings. causal: a token sees only those before it.
    attend_padding: treat padding as text (SigLIP); the mask is then ignored and returned all True.
    pooling: which state `pooled` comes from: "first" token, "last" real one, "eos" (the first token
        `eos_id`, or the last real one where there is none), the "mean" of the real ones, "none".
    pooler: what follows: a "linear" layer, one with "tanh", or "none".
    norm_first=False (post-norm) has no final norm. The other fields are those of
    `layers.transformer.Transformer`; dropout is also on the embeddings.

    Published networks differ from the defaults, pre-norm and bidirectional, in:
        BERT    norm_first=False, embedding_norm=True, token_types=2, pooler="tanh", epsilon=1e-12
        CLIP    causal=True, pooling="eos", activation="quick_gelu", epsilon=1e-5
        SigLIP  attend_padding=True, pooling="last", pooler="linear", activation="gelu_tanh"
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
    norm_first: bool = True
    causal: bool = False
    attend_padding: bool = False
    pooling: str = "first"
    eos_id: int | None = None
    pooler: str = "none"
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        types: Int[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """tokens: ids in [0, V); mask: True where real; types: segments, all 0 if None.

        ValueError for an unknown option, more than max_length tokens, or types without token_types.
        """
        self._check(types)
        real = jnp.ones_like(mask) if self.attend_padding else mask
        x = self._embed(tokens, types, train)
        visible = padding_mask(real)
        if self.causal:
            visible = visible & causal_mask(tokens.shape[1])
        x, _ = self._transformer()(x, mask=visible, train=train)
        pooled = self._pool(x, tokens, real)
        if pooled is not None and self.pooler != "none":
            dense = nn.Dense(self.width, dtype=self.dtype, name="pooler_dense")
            pooled = POOLERS[self.pooler](dense(pooled))
        return Features(x, real, pooled)

    def _embed(self, tokens: Array, types: Array | None, train: bool) -> Float[Array, "B T D"]:
        fields = (self.vocab, self.width, self.max_length, self.positions, self.dtype)
        x = TokenEmbedding(*fields, name="embedding")(tokens)
        if self.token_types:
            types = jnp.zeros_like(tokens) if types is None else types
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
            x = make_norm("layer", **norm)(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def _transformer(self) -> Transformer:
        return Transformer(
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            norm_first=self.norm_first,
            final_norm=self.norm_first,
            epsilon=self.epsilon,
            activation=self.activation,
            dropout=self.dropout,
            drop_path=self.drop_path,
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )

    def _pool(self, x: Array, tokens: Array, real: Array) -> Float[Array, "B D"] | None:
        if self.pooling == "none":
            return None
        if self.pooling == "mean":
            return summary(Features(x, real))
        if self.pooling == "first":
            return x[:, 0]
        where = x.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)  # [B], the last real position
        if self.pooling == "eos":
            ends = (tokens == self.eos_id) & real
            where = jnp.where(jnp.any(ends, axis=1), jnp.argmax(ends, axis=1), where)
        return jnp.take_along_axis(x, where[:, None, None], axis=1)[:, 0]

    def _check(self, types: Array | None) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: choose one of {POOLINGS}")
        if self.pooler not in POOLERS:
            raise ValueError(f"pooler={self.pooler!r}: choose one of {sorted(POOLERS)}")
        if self.pooling == "eos" and self.eos_id is None:
            raise ValueError('pooling="eos" needs eos_id, the id of the end-of-text token')
        if self.pooling == "none" and self.pooler != "none":
            raise ValueError(f'pooler={self.pooler!r} has nothing to read with pooling="none"')
        if types is not None and not self.token_types:
            raise ValueError("token types were passed to an encoder without token_types")
