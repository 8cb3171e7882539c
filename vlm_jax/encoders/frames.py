"""Several frames of a video as one set of tokens, as GIT reads them (arXiv:2205.14100, 3.3), or
pooled over time.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vlm_jax.encoders.vit import AttentionPooling, ViT
from vlm_jax.layers.masks import padding_mask
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Features

POOLS = ("mean", "attention", "join")


class FrameEncoder(nn.Module):
    """A ViT over every frame by itself; the tokens of frame i get the i-th of `frames` vectors.

    frames: most frames of a video. vit: fields of `encoders.vit.ViT`. pool: what becomes of the
    tokens that lie at one place in all frames: None, they stay as they are; "mean" of them, which
    forgets their order; "attention", a learned query reads them (`encoders.vit.AttentionPooling`);
    "join", a matrix reads all of them side by side, as early fusion does (arXiv:2103.15691, 3.2).
    To pool over place and time together, leave it out and use a connector: perceiver (Flamingo,
    arXiv:2204.14198, 2.1) or attentional_pooler. mixer: fields of `layers.transformer.Transformer`
    for layers over what comes out, or None: without `pool` that is joint attention over space and
    time (arXiv:2103.15691, 3.3).

    A picture, [B, H, W, 3], is encoded without the vectors; where there is a pool or a mixer, as a
    video that stands still.
    """

    frames: int
    vit: Mapping[str, Any]
    pool: str | None = None
    mixer: Mapping[str, Any] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"] | Float[Array, "B F H W 3"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        train: bool = False,
    ) -> Features:
        """The frames' tokens one frame after the other, [B, F * S, D], or with `pool` [B, S, D]; no
        pooled vector of several.

        mask: which patches are real, the same for all frames. ValueError for more than `frames`,
        for another pool, or fewer than `frames` where they are joined.
        """
        fields: dict[str, Any] = {"dtype": self.dtype, **self.vit}
        encode = ViT(**fields, name="vit")
        shape = (self.frames, 1, 1, encode.width)
        time = self.param("time", nn.initializers.zeros_init(), shape)
        if image.ndim == 4:
            seen = encode(image, mask, train=train)
            if self.pool is None and self.mixer is None:
                return seen
            x = jnp.repeat(seen.tokens[:, None], self.frames, axis=1)
            real = seen.mask
        else:
            x, real = self._each(encode, image, mask, train)
        x = x + jnp.asarray(time, self.dtype)[None, : x.shape[1], 0]  # [B, F, S, D]
        found = self._pooled(x, real)
        if self.mixer is not None:
            mixer = Transformer(**{"dtype": self.dtype, **self.mixer}, name="mixer")
            visible = None if mask is None else padding_mask(found.mask)
            found = found._replace(tokens=mixer(found.tokens, mask=visible, train=train)[0])
        return found

    def _each(
        self, encode: ViT, image: Array, mask: Array | None, train: bool
    ) -> tuple[Float[Array, "B F S D"], Bool[Array, "B S"]]:
        """The tokens of every frame by itself, and which are real."""
        frames = image.shape[1]
        if frames > self.frames:
            raise ValueError(
                f"{frames} frames do not fit frames={self.frames}: use fewer (data.image.frames)"
            )
        masks = None if mask is None else jnp.repeat(mask, frames, axis=0)
        seen = encode(rearrange(image, "B F H W C -> (B F) H W C"), masks, train=train)
        x = rearrange(seen.tokens, "(B F) S D -> B F S D", F=frames)
        return x, rearrange(seen.mask, "(B F) S -> B F S", F=frames)[:, 0]

    def _pooled(self, x: Float[Array, "B F S D"], real: Bool[Array, "B S"]) -> Features:
        """The tokens, pooled over the frames or one frame after the other."""
        batch, frames, places, width = x.shape
        if self.pool is None:
            return Features(rearrange(x, "B F S D -> B (F S) D"), jnp.tile(real, (1, frames)))
        if self.pool == "mean":
            return Features(jnp.mean(x, axis=1), real)
        if self.pool == "join":
            if frames < self.frames:
                raise ValueError(f"{frames} frames cannot be joined: it takes {self.frames}")
            joined = rearrange(x, "B F S D -> B S (F D)")
            return Features(nn.Dense(width, dtype=self.dtype, name="join")(joined), real)
        if self.pool != "attention":
            raise ValueError(f"pool={self.pool!r}: choose one of {POOLS}, or leave it out")
        heads = self.vit.get("heads", ViT.heads)
        query = AttentionPooling(heads, 2 * width, dtype=self.dtype, name="pool")
        read = query(rearrange(x, "B F S D -> (B S) F D"), None)
        return Features(read.reshape(batch, places, width), real)
