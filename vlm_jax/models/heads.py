"""What turns Features into the numbers an objective needs: shared embeddings, class scores, words,
a match score.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain
from vlm_jax.layers.norms import make_norm


class ContrastHead(nn.Module):
    """Projects summaries of images, texts and sounds to unit vectors of one space, with a learned
    temperature.

    size: E. scale: initial inverse temperature; None for a temperature of 1. divide: learn the
    temperature itself, not the logarithm of its inverse (ALIGN, arXiv:2102.05918). bias: initial
    logit bias (sigmoid loss), or None for none. max_scale: the inverse temperature is clipped here
    (CLIP, arXiv:2103.00020, section 2.5). project: which sides have a projection; the others'
    summaries are of width E already, as both of SigLIP's are (arXiv:2303.15343). project_bias:
    whether the projections have biases (BLIP, arXiv:2201.12086). dropout: rate in [0, 1) on the
    summaries of images in training, where a locked tower's few examples would be learned by heart.
    """

    size: int
    scale: float | None = 1 / 0.07
    bias: float | None = None
    max_scale: float = 100.0
    project: tuple[str, ...] = ("image", "text", "audio")
    project_bias: bool = False
    dropout: float = 0.0
    divide: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Projections and two scalars, as far as they are wanted."""
        self.drop = nn.Dropout(self.dropout)
        for kind in self.project:  # one that is never called has no parameters
            dense = nn.Dense(self.size, use_bias=self.project_bias, dtype=self.dtype)
            setattr(self, kind, dense)
        if self.scale is not None and self.divide:
            initial = nn.initializers.constant(1 / self.scale)
            self.temperature = self.param("temperature", initial, ())
        elif self.scale is not None:
            initial = nn.initializers.constant(math.log(self.scale))
            self.logit_scale = self.param("logit_scale", initial, ())
        if self.bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias), ())

    def embed(self, kind: str, pooled: Float[Array, "B *Q D"]) -> Float[Array, "B *Q E"]:
        """Unit vectors of a kind: "image", "text" or "audio"."""
        return _unit(getattr(self, kind)(pooled) if kind in self.project else pooled)

    def __call__(self, pooled: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Unit vectors f32[B, E] of summaries f32[B, ...] by their kind: image_embeds, text_embeds,
        audio_embeds; scale f32[]; perhaps bias f32[].
        """
        scale = jnp.ones(())
        if self.scale is not None:
            free = 1 / self.temperature if self.divide else jnp.exp(self.logit_scale)
            scale = jnp.minimum(free, self.max_scale)
        outputs = {"scale": scale} | ({} if self.bias is None else {"bias": self.logit_bias})
        for kind, x in pooled.items():
            x = self.drop(x, deterministic=not train) if kind == "image" else x
            outputs[f"{kind}_embeds"] = self.embed(kind, x)
        return outputs


def _unit(x: Float[Array, "B *Q E"]) -> Float[Array, "B *Q E"]:
    """Divide by the norm, in float32; the epsilon keeps a zero vector's gradient finite."""
    x = constrain(x.astype(jnp.float32), BATCH)
    return x * (jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12) ** -0.5


class ClassifierHead(nn.Module):
    """Class scores from a summary vector: linear, or through one hidden layer.

    classes: C. hidden: width of the hidden layer, or None for none. norm: a layer normalisation of
    the hidden layer "before" its activation (ViLT, arXiv:2102.03334) or "after" it (LXMERT,
    arXiv:1908.07490), or None.
    """

    classes: int
    hidden: int | None = None
    activation: str = "gelu"
    norm: str | None = None
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B D"], *, train: bool = False) -> Float[Array, "B C"]:
        """Logits in float32."""
        x = pooled
        if self.hidden is not None:
            x = nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)
            norms = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "norm"}
            norm = make_norm("layer", **norms) if self.norm else lambda x: x
            x = norm(x) if self.norm == "before" else x
            x = ACTIVATIONS[self.activation](x)
            x = norm(x) if self.norm == "after" else x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=self.dtype, name="out")(x).astype(jnp.float32)


class ReconstructionHead(nn.Module):
    """Masked-word scores from text tokens and an image-text match score from the summary.

    BERT's transform (dense, activation, norm) before the vocabulary (arXiv:1810.04805); matching as
    in VisualBERT (arXiv:1908.03557), section 3.2. vocab: V. tied: the words' scores come from the
    table of word vectors. match: whether there is a match score.
    """

    vocab: int
    activation: str = "gelu"
    tied: bool = False
    match: bool = True
    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B T D"],
        pooled: Float[Array, "B D"] | None,
        table: Float[Array, "V D"] | None = None,
    ) -> dict[str, Array]:
        """word_logits f32[B, T, V] and match_logits f32[B, 2] (class 1: image and text belong
        together).

        table: word vectors, needed if tied; pooled is needed for a match score.
        """
        x = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="transform")(tokens)
        x = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="norm")(
            ACTIVATIONS[self.activation](x)
        )
        if self.tied:
            words = x.astype(self.dtype) @ jnp.asarray(table, self.dtype).T
            bias = self.param("words_bias", nn.initializers.zeros_init(), (self.vocab,))
            words = words.astype(jnp.float32) + bias[None, None]
        else:
            words = nn.Dense(self.vocab, dtype=self.dtype, name="words")(x).astype(jnp.float32)
        words = constrain(words, BATCH, LENGTH, SPLIT)
        if not self.match:
            return {"word_logits": words}
        match = nn.Dense(2, dtype=self.dtype, name="match")(pooled)
        return {"word_logits": words, "match_logits": match.astype(jnp.float32)}


class RegionHead(nn.Module):
    """Several scores of every image token, through one shared transform as BERT's for words.

    classes: the name of a score to the number of its values: LXMERT (arXiv:1908.07490, section 3.1)
    predicts each region's object and attribute, and its feature vector.
    """

    classes: Mapping[str, int]
    activation: str = "gelu"
    epsilon: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B S D"]) -> dict[str, Array]:
        """{"region_NAME": f32[B, S, values]}."""
        x = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="transform")(tokens)
        norms = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "norm"}
        x = make_norm("layer", **norms)(ACTIVATIONS[self.activation](x))
        dense = lambda name, size: nn.Dense(size, dtype=self.dtype, name=name)(x)
        scores = {name: dense(name, size) for name, size in self.classes.items()}
        return {f"region_{name}": score.astype(jnp.float32) for name, score in scores.items()}


class GroundingHead(nn.Module):
    """Which image token each token means: products of queries and keys of one attention head,
    without a softmax (VisualBERT, arXiv:1908.03557, section 4.4). width: of both.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B L D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B L S"]:
        """Scores of the first S tokens, the image's, for all; the least number there is where mask
        is False.
        """
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, name=name)
        image = tokens[:, : mask.shape[1]]
        query, key = dense("query")(tokens), dense("key")(image)
        dense("value")(image)  # checkpoints hold it, nothing reads it
        scores = jnp.einsum("blk,bsk->bls", query, key).astype(jnp.float32)
        least = jnp.finfo(jnp.float32).min
        return jnp.where(mask[:, None], scores / math.sqrt(self.width), least)


HEADS = {
    "contrast": ContrastHead,
    "classify": ClassifierHead,
    "reconstruct": ReconstructionHead,
    "regions": RegionHead,
    "ground": GroundingHead,
}
