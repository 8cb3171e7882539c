"""BLIP-2's Q-Former: a few learned queries read the image tokens, for a language model or beside a
text.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import stack
from vlm_jax.types import Features

ALONE = ("self", "cross", "mlp")
BOTH = ("self", "cross", "mlp", "rest_mlp")


class QFormer(nn.Module):
    """Learned queries through a BERT-type stack that also attends to the image (arXiv:2301.12597,
    section 3.1).

    queries: Q, how many tokens come out. width: D. cross_every: the first of each so many layers
    has cross-attention. reads_text: texts go through the same self-attention with MLPs of their
    own, as in the paper's first stage; the module is then a fusion, too. The others are those of
    `layers.transformer.Transformer`; dropout is also on what enters. The defaults are those of the
    paper.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_every: int = 2
    reads_text: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, visual: Features | None, textual: Features | None = None, *, train: bool = False
    ) -> Features:
        """Q tokens of width D per image, all real; no pooled vector.

        textual: embeddings of a text, whose tokens then follow, for a stack that reads_text. They
        and the queries see each other (section 3.1, image-text matching); pooled is the mean of
        the queries, or, without an image, the text's first token. ValueError for a text that the
        stack has no MLPs for.
        """
        if textual is not None and not self.reads_text:
            raise ValueError("a Q-Former reads texts with reads_text=True only")
        given = [] if visual is None else [self._queries(len(visual.tokens))]
        given += [] if textual is None else [textual]
        real = jnp.concatenate([features.mask for features in given], axis=1)
        norm = make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name="queries_norm")
        x = norm(jnp.concatenate([features.tokens for features in given], axis=1))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        around: dict[str, Any] = {"mask": None if textual is None else padding_mask(real)}
        if visual is not None:
            around["context"] = zero_padding(visual.tokens, visual.mask)
            around["context_mask"] = padding_mask(visual.mask)
        own = dict(parts=BOTH if self.reads_text else ALONE, norm_first=False, final_norm=False)
        own |= dict(leading=0 if visual is None else self.queries) if self.reads_text else {}
        x, _ = stack(self, **own, name="transformer")(x, **around, train=train)
        if textual is None:
            return Features(x, real)
        pooled = x[:, 0] if visual is None else jnp.mean(x[:, : self.queries], axis=1)
        return Features(x, real, pooled)

    def _queries(self, batch: int) -> Features:
        shape = (1, self.queries, self.width)
        queries = self.param("queries", nn.initializers.normal(0.02), shape).astype(self.dtype)
        x = jnp.broadcast_to(queries, (batch, *shape[1:]))
        return Features(x, jnp.ones(x.shape[:2], bool))
