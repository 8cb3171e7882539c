"""What turns Features into the numbers an objective needs: shared embeddings, class scores, words,
a match score.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.activations import ACTIVATIONS


class ContrastHead(nn.Module):
    """Projects image and text summaries to unit vectors of one space, with a learned temperature.

    size: E. scale: initial inverse temperature. bias: initial logit bias (sigmoid loss), or None
    for none. max_scale: the inverse temperature is clipped here (CLIP, arXiv:2103.00020, section
    2.5).
    """

    size: int
    scale: float = 1 / 0.07
    bias: float | None = None
    max_scale: float = 100.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Two bias-free projections and one or two scalars."""
        self.image = nn.Dense(self.size, use_bias=False, dtype=self.dtype)
        self.text = nn.Dense(self.size, use_bias=False, dtype=self.dtype)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(self.scale)), ()
        )
        if self.bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias), ())

    def embed_image(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Unit vectors of images."""
        return _unit(self.image(pooled))

    def embed_text(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Unit vectors of texts."""
        return _unit(self.text(pooled))

    def __call__(self, image: Float[Array, "B C"], text: Float[Array, "B D"]) -> dict[str, Array]:
        """Unit vectors image_embeds and text_embeds f32[B, E]; scale f32[]; perhaps bias f32[]."""
        scale = jnp.minimum(jnp.exp(self.logit_scale), self.max_scale)
        outputs = {
            "image_embeds": self.embed_image(image),
            "text_embeds": self.embed_text(text),
            "scale": scale,
        }
        return outputs | ({} if self.bias is None else {"bias": self.logit_bias})


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Divide by the norm, in float32; the epsilon keeps a zero vector's gradient finite."""
    x = x.astype(jnp.float32)
    return x * (jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12) ** -0.5


class ClassifierHead(nn.Module):
    """Class scores from a summary vector: linear, or through one hidden layer.

    classes: C. hidden: width of the hidden layer, or None for none.
    """

    classes: int
    hidden: int | None = None
    activation: str = "gelu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B D"], *, train: bool = False) -> Float[Array, "B C"]:
        """Logits in float32."""
        x = pooled
        if self.hidden is not None:
            x = ACTIVATIONS[self.activation](
                nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=self.dtype, name="out")(x).astype(jnp.float32)


class ReconstructionHead(nn.Module):
    """Masked-word scores from text tokens and an image-text match score from the summary.

    BERT's transform (dense, GELU, norm) before the vocabulary (arXiv:1810.04805); matching as in
    VisualBERT (arXiv:1908.03557), section 3.2. vocab: V.
    """

    vocab: int
    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B T D"], pooled: Float[Array, "B D"]
    ) -> dict[str, Array]:
        """word_logits f32[B, T, V] and match_logits f32[B, 2] (class 1: image and text belong
        together).
        """
        x = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="transform")(tokens)
        x = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="norm")(
            ACTIVATIONS["gelu"](x)
        )
        words = nn.Dense(self.vocab, dtype=self.dtype, name="words")(x)
        match = nn.Dense(2, dtype=self.dtype, name="match")(pooled)
        return {"word_logits": words.astype(jnp.float32), "match_logits": match.astype(jnp.float32)}


HEADS = {"contrast": ContrastHead, "classify": ClassifierHead, "reconstruct": ReconstructionHead}
