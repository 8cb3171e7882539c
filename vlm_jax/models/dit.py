"""The network of the Diffusion Transformer (DiT, arXiv:2212.09748)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.embed import sincos_1d, sincos_2d
from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.residual import Modulation, modulate
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.types import Features, summary

WAVES = 256
"""Channels of the sines and cosines that a time is first described by."""

NORMAL = nn.initializers.normal(0.02)


class DiT(nn.Module):
    """Patches of a map through a Transformer whose every part is shifted, scaled and gated by a
    condition (adaLN-Zero, section 3.2).

    size: side of the square map. channels: of the map. patch: side of a patch, a divisor of size.
    parts: with "cross" among them, tokens of what is conditioned on are also attended to.
    learned_sigma: twice as many output channels, of which the second half, the variances of the
        paper's diffusion, is left out of what is returned; they are there for the sake of published
        checkpoints. The others are those of `layers.transformer.Transformer`.
    The defaults are DiT-XL/2 for latents of 256-pixel images, but for learned_sigma.
    """

    size: int = 32
    channels: int = 4
    patch: int = 2
    width: int = 1152
    layers: int = 28
    heads: int = 16
    mlp_width: int = 4608
    parts: tuple[str, ...] = ("self", "mlp")
    learned_sigma: bool = False
    attention: Options = NO_OPTIONS
    activation: str = "gelu_tanh"
    norm: str = "layer_plain"
    epsilon: float = 1e-6
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        time: Float[Array, " B"],
        memory: Features,
        *,
        train: bool = False,
    ) -> Float[Array, "B H W C"]:
        """A map of the same shape; 0 before training. time: in [0, 1]. memory: what to draw, with
        pooled f32[B, D]. ValueError if the map is not of `size`, or does not divide into patches.
        """
        self._check(x.shape)
        side, dense = self.size // self.patch, partial(nn.Dense, dtype=self.dtype)
        patches = rearrange(x, "B (h p) (w q) C -> B (h w) (p q C)", h=side, w=side)
        tokens = dense(self.width, name="patch_embedding")(patches)
        tokens = tokens + sincos_2d(side, side, self.width)[None].astype(self.dtype)
        condition = self._time(time) + summary(memory)
        around: dict[str, Any] = dict(condition=condition)
        if "cross" in self.parts:
            around["context"] = zero_padding(memory.tokens, memory.mask)
            around["context_mask"] = padding_mask(memory.mask)
        layers = stack(self, final_norm=False, name="transformer")
        tokens, _ = layers(tokens, train=train, **around)
        norm = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name="final_norm")
        tokens = modulate(norm(tokens), *Modulation(2, self.dtype, name="modulation")(condition))
        size = self.patch**2 * self.channels * (2 if self.learned_sigma else 1)
        zeros = nn.initializers.zeros_init()
        out = dense(size, kernel_init=zeros, name="out")(tokens)
        grid = dict(h=side, w=side, p=self.patch, q=self.patch)
        out = rearrange(out, "B (h w) (p q C) -> B (h p) (w q) C", **grid)
        return out[..., : self.channels].astype(jnp.float32)

    def _time(self, time: Float[Array, " B"]) -> Float[Array, "B D"]:
        """Times as vectors, at the wavelengths for which the paper's thousand steps are made."""
        dense = lambda name: nn.Dense(self.width, kernel_init=NORMAL, dtype=self.dtype, name=name)
        hidden = dense("time_up")(sincos_1d(1000.0 * time, WAVES).astype(self.dtype))
        return dense("time_down")(nn.silu(hidden))

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.size % self.patch:
            raise ValueError(f"size={self.size} does not divide into patches of {self.patch}")
        if shape[1:] != (self.size, self.size, self.channels):
            raise ValueError(
                f"a map of {shape[1]} x {shape[2]} with {shape[3]} channels came to a network for "
                f"{self.size} x {self.size} with {self.channels}: set size and channels of "
                "config.model.network to what the images or their tokenizer have"
            )
