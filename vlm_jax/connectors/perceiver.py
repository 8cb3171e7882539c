"""Flamingo's perceiver resampler: any number of image tokens in, a few out."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features


class PerceiverResampler(nn.Module):
    """Learned latents that attend, layer by layer, to the image tokens and to themselves
    (arXiv:2204.14198, section 2.1 and appendix A.1.1).

    latents: Q, how many tokens come out; their width is that of the image tokens.
    The others are those of `layers.transformer.Transformer`. The defaults are those of OpenFlamingo
    (arXiv:2308.01390) with CLIP L/14, but for its heads of 64 channels (attention).
    """

    latents: int = 64
    layers: int = 6
    heads: int = 8
    mlp_width: int = 4096
    attention: Options = NO_OPTIONS
    activation: str = "gelu"
    epsilon: float = 1e-5
    bias: bool = False
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """Q tokens per image, all real; no pooled vector."""
        batch, _, width = visual.tokens.shape
        shape = (1, self.latents, width)
        latents = self.param("latents", nn.initializers.normal(1.0), shape).astype(self.dtype)
        x = jnp.broadcast_to(latents, (batch, *shape[1:]))
        own = dict(parts=("cross", "mlp"), context_norm=True, cross_own=True)
        layers = stack(self, **own, name="transformer")
        seen = zero_padding(visual.tokens, visual.mask)
        x, _ = layers(x, context=seen, context_mask=padding_mask(visual.mask), train=train)
        return Features(x, jnp.ones(x.shape[:2], bool))
