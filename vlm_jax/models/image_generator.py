"""Text to image tokens: a text encoder, the one causal language model over the ids of an image
tokenizer, and that tokenizer, which stays as it is.

The ids are written one after the other (DALL-E, arXiv:2102.12092; Parti, arXiv:2206.10789) or
guessed all together (MaskGIT, arXiv:2202.04200; Muse, arXiv:2301.00704), by the same network.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm_jax import kwargs
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.encoders import TEXT_ENCODERS
from vlm_jax.models.image_tokenizer import ImageTokenizer, to_bytes
from vlm_jax.types import Batch, Cache, Features


class ImageGenerator(nn.Module):
    """tokenizer: `ImageTokenizer`, not trained here. text: one of TEXT_ENCODERS. decoder: a
    `CausalLM` that reads the text before the image, with an id more than the tokenizer has, which
    stands for the start of an image, or for a token to be guessed.
    """

    tokenizer: Any
    text: Any
    decoder: Any

    @property
    def codes(self) -> int:
        """How many ids the tokenizer has; also the id that is the start, and hides others."""
        return self.tokenizer.codes

    def __call__(
        self, batch: Batch, asks: Mapping[str, str], *, train: bool = False
    ) -> dict[str, dict[str, Array]]:
        """Outputs for each task in `asks` = {task name: method of this class}, from batch["image"]
        uint8[B, H, W, 3] and batch[task].
        """
        ids = jax.lax.stop_gradient(self.tokenizer.encode(batch["image"]))
        if self.is_initializing():
            self.tokenizer.decode(ids)  # else half of its parameters would not be made
        return {
            task: getattr(self, ask)(ids, batch[task], train=train) for task, ask in asks.items()
        }

    def next_tokens(
        self, ids: Int[Array, "B S"], inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """logits f32[B, S, codes] of every image token given those before it, and its targets."""
        tokens = jnp.concatenate([jnp.full_like(ids[:, :1], self.codes), ids[:, :-1]], axis=1)
        logits, _ = self.decoder(tokens, self.read(inputs, train=train), train=train)
        everywhere = jnp.ones(ids.shape, bool)
        return {"logits": logits[..., : self.codes], "targets": ids, "targets_mask": everywhere}

    def hidden_tokens(
        self, ids: Int[Array, "B S"], inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """logits f32[B, S, codes] of every image token given those that inputs["hidden"] bool[B, S]
        leaves, and their targets.
        """
        tokens = jnp.where(inputs["hidden"], self.codes, ids)
        logits = self.guess(tokens, self.read(inputs, train=train), train=train)
        return {"logits": logits, "targets": ids, "targets_mask": inputs["hidden"]}

    def guess(
        self, tokens: Int[Array, "B S"], memory: Features, *, train: bool = False
    ) -> Float[Array, "B S V"]:
        """Scores of all tokens, each seeing all others: image tokens in [0, codes), or codes where
        hidden.
        """
        whole = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
        logits, _ = self.decoder(tokens, memory, prefix=whole, train=train)
        return logits[..., : self.codes]

    def read(self, inputs: Mapping[str, Array], *, train: bool = False) -> Features:
        """Features of inputs["text"] i32[B, T] where inputs["text_mask"] is True."""
        return self.text(inputs["text"], inputs["text_mask"], train=train)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, " B"] | None = None,
        after: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B _ V"], Cache | None]:
        """The decoder by itself; see `vlm_jax.decoders`."""
        return self.decoder(tokens, memory, cache, mask=mask, prefix=prefix, after=after)

    def init_cache(self, memory: Features | None, length: int, extra: int = 0) -> Cache:
        """The decoder's empty cache with room for `length` tokens."""
        return self.decoder.init_cache(memory, length, extra)

    def draw(self, ids: Int[Array, "B S"]) -> Array:
        """The pictures uint8[B, H, W, 3] that ids stand for."""
        return to_bytes(self.tokenizer.decode(ids))


def make_image_generator(
    *, tokenizer: Mapping[str, Any], text: Mapping[str, Any], decoder: Mapping[str, Any]
) -> ImageGenerator:
    """tokenizer: fields of `ImageTokenizer`. text: name and fields of a text encoder. decoder:
    fields of `CausalLM`, but for those that say how it reads text and image; max_length is the
    number of image tokens, a square.
    """
    made = kwargs.call(ImageTokenizer, tokenizer, "config.model.tokenizer")
    reading: dict[str, Any] = dict(vocab=made.codes + 1, positions="grid")
    reading |= dict(memory="prepend", memory_embedded=False, bidirectional="prompt")
    return ImageGenerator(
        tokenizer=made,
        text=kwargs.build(TEXT_ENCODERS, text, "config.model.text"),
        decoder=kwargs.call(CausalLM, decoder, "config.model.decoder", **reading),
    )
