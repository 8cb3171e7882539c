"""The one wiring: encoder -> Features -> fusion -> Features -> decoder or head.

Which parts exist, and which objective asks for what, is the config's business. A captioner has a
vision encoder and a decoder; a dual encoder two encoders and a contrast head; a fusion encoder all
of them. Several objectives over one model share one pass of the vision encoder.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.types import Batch, Cache, Features, summary

Part = Any
"""A module or None; `models.check` says which parts a task needs, before a model is built."""


class VisionLanguageModel(nn.Module):
    """Encoders, fusion, decoder and heads, each optional but the vision encoder.

    image_mean, image_std: per RGB channel in [0, 1], applied to uint8 images on the device; float
    inputs are taken to be features and pass unchanged.
    """

    vision: nn.Module
    text: Part = None
    fusion: Part = None
    decoder: Part = None
    contrast_head: Part = None
    classify_head: Part = None
    reconstruct_head: Part = None
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(
        self, batch: Batch, asks: Mapping[str, str], *, train: bool = False
    ) -> dict[str, dict[str, Array]]:
        """Outputs for each task in `asks` = {task name: method of this class}, from batch["image"]
        and batch[task].
        """
        visual = self.encode_image(batch["image"], train=train)
        return {
            task: getattr(self, ask)(visual, batch[task], train=train) for task, ask in asks.items()
        }

    def encode_image(self, image: Array, *, train: bool = False) -> Features:
        """Features of uint8[B, H, W, 3] images in [0, 255], or of f32[B, ...] features computed
        beforehand.
        """
        if image.dtype == jnp.uint8:
            mean, std = (
                jnp.asarray(x, jnp.float32)[None, None, None]
                for x in (self.image_mean, self.image_std)
            )
            image = (image.astype(jnp.float32) / 255.0 - mean) / std
        return self.vision(image, train=train)

    def encode_text(self, inputs: Mapping[str, Array], *, train: bool = False) -> Features:
        """Features of inputs["text"] i32[B, T] where inputs["text_mask"] is True."""
        return self.text(inputs["text"], inputs["text_mask"], train=train)

    def fuse(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Features:
        """Features of image and text together; the last T tokens are the text's."""
        return self.fusion(visual, self.encode_text(inputs, train=train), train=train)

    def embed_image(self, image: Array) -> Float[Array, "B E"]:
        """Unit vectors of images in the shared space."""
        return self.contrast_head.embed_image(summary(self.encode_image(image)))

    def embed_text(self, inputs: Mapping[str, Array]) -> Float[Array, "B E"]:
        """Unit vectors of texts in the shared space."""
        return self.contrast_head.embed_text(summary(self.encode_text(inputs)))

    def contrast(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """image_embeds, text_embeds f32[B, E], scale and perhaps bias."""
        return self.contrast_head(summary(visual), summary(self.encode_text(inputs, train=train)))

    def classify(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """Logits f32[B, C] from the fused summary, or from the image alone when the model has no
        fusion.
        """
        fused = visual if self.fusion is None else self.fuse(visual, inputs, train=train)
        return {"logits": self.classify_head(summary(fused), train=train)}

    def reconstruct(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """word_logits f32[B, T, V] and match_logits f32[B, 2].

        Rows whose inputs["matched"] is False are shown the next row's text, so mismatched pairs
        cost no data reading.
        """
        matched = inputs["matched"][:, None]
        shown = {
            name: jnp.where(matched, inputs[name], jnp.roll(inputs[name], -1, axis=0))
            for name in ("text", "text_mask")
        }
        fused = self.fuse(visual, shown, train=train)
        return self.reconstruct_head(fused.tokens[:, -inputs["text"].shape[1] :], summary(fused))

    def memory(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Features:
        """What the decoder attends to: the image, fused with inputs["text"] where the task gives
        one.
        """
        return self.fuse(visual, inputs, train=train) if "text" in inputs else visual

    def generate(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """Logits f32[B, T, V] of the decoder reading inputs["tokens"], for teacher forcing."""
        memory = self.memory(visual, inputs, train=train)
        logits, _ = self.decoder(
            inputs["tokens"],
            memory,
            mask=inputs["tokens_mask"],
            prefix=inputs["prefix"],
            train=train,
        )
        return {"logits": logits}

    def read(self, image: Array, inputs: Mapping[str, Array]) -> Features:
        """The decoder's memory of an image and, where the task gives one, of inputs["text"]."""
        return self.memory(self.encode_image(image), inputs)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """The decoder by itself; see `vlm_jax.decoders`."""
        return self.decoder(tokens, memory, cache, mask=mask, prefix=prefix)

    def init_cache(self, memory: Features, length: int) -> Cache:
        """The decoder's empty cache with room for `length` tokens."""
        return self.decoder.init_cache(memory, length)
