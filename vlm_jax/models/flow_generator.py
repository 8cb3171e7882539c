"""A picture from noise along a learned flow: a condition, a network that says where to go, and
pixels or the latent space of an image tokenizer to go through.

Flow matching on straight paths (arXiv:2210.02747; rectified flow, arXiv:2209.03003), of pixels or,
as in latent diffusion (arXiv:2112.10752), of what a tokenizer makes of them.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vlm_jax import kwargs
from vlm_jax.decode.flow import noise
from vlm_jax.encoders import TEXT_ENCODERS
from vlm_jax.models.dit import DiT
from vlm_jax.models.image_tokenizer import ImageTokenizer, to_bytes, to_pixels
from vlm_jax.types import Batch, Features, summary

PREDICTS = ("velocity", "image")

NEAR_THE_END = 0.05
"""How much of the time is thought to be left at least where a velocity is worked out from the image
at its end (arXiv:2511.13720, section 4)."""

Map = Float[Array, "B H W C"]


class FlowGenerator(nn.Module):
    """network: a `DiT`. text: one of TEXT_ENCODERS, or None for `classes` classes, to which one is
    added that stands for none of them. tokenizer: an `ImageTokenizer`, not trained here, whose
    vectors are drawn; None for pixels. scale: what those vectors are multiplied by, so that their
    deviation is about 1. They are drawn as they are before they are quantized. predicts: what the
    network says, the "velocity", or the "image" that the flow ends in, from which the velocity
    follows (arXiv:2511.13720): easier where a patch has about as many numbers as the network is
    wide.
    """

    network: Any
    text: Any = None
    classes: int = 0
    tokenizer: Any = None
    scale: float = 1.0
    predicts: str = "velocity"

    def setup(self):
        """The vectors of classes, or the layer from the text's vector to the network's width."""
        if self.text is None:
            normal = nn.initializers.normal(0.02)
            self.label = nn.Embed(self.classes + 1, self.network.width, embedding_init=normal)
        else:
            self.pooled = nn.Dense(self.network.width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what is drawn, in pixels or in vectors of the tokenizer."""
        return (self.network.size, self.network.size, self.network.channels)

    def __call__(
        self, batch: Batch, asks: Mapping[str, str], *, train: bool = False
    ) -> dict[str, dict[str, Array]]:
        """Outputs for each task in `asks` = {task name: "velocity"}, from batch["image"]
        uint8[B, H, W, 3] and batch[task].
        """
        data = jax.lax.stop_gradient(self.encode(batch["image"]))
        if self.is_initializing():
            self.draw(data)  # else half of the tokenizer's parameters would not be made
        return {
            task: getattr(self, ask)(data, batch[task], train=train) for task, ask in asks.items()
        }

    def velocity(
        self, data: Map, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """velocity f32[B, H, W, C] where the straight path from noise, drawn with the seeds
        inputs["noise"] u32[B], to the data is at inputs["time"] f32[B]; target, the path's own.
        """
        start = noise(jax.vmap(jax.random.key)(inputs["noise"]), data.shape[1:])
        x, target = straight_path(start, data, inputs["time"])
        found = self.flow(x, inputs["time"], self.read(inputs, train=train), train=train)
        return {"velocity": found, "target": target}

    def flow(
        self, x: Map, time: Float[Array, " B"], memory: Features, *, train: bool = False
    ) -> Map:
        """The velocity at x and time, given what to draw."""
        found = self.network(x, time, memory, train=train)
        if self.predicts == "velocity":
            return found
        left = jnp.maximum(1.0 - time, NEAR_THE_END)[:, None, None, None]
        return (found - x) / left

    def read(self, inputs: Mapping[str, Array], *, train: bool = False) -> Features:
        """What to draw, of inputs["text"] i32[B, T] where inputs["text_mask"] is True, or of
        inputs["label"] i32[B], the number of classes for none; pooled is as wide as the network.
        """
        if self.text is None:
            vector = self.label(inputs["label"])
            return Features(vector[:, None], jnp.ones((len(vector), 1), bool), vector)
        found = self.text(inputs["text"], inputs["text_mask"], train=train)
        return found._replace(pooled=self.pooled(summary(found)))

    def encode(self, image: Array) -> Map:
        """What is drawn of uint8[B, H, W, 3] images: pixels in [-1, 1], or the tokenizer's vectors
        times `scale`.
        """
        if self.tokenizer is None:
            return to_pixels(image)
        vectors = self.scale * self.tokenizer.vectors(image)
        return rearrange(vectors, "B (h w) C -> B h w C", h=image.shape[1] // self.tokenizer.factor)

    def draw(self, data: Map) -> Array:
        """The pictures uint8[B, H, W, 3] of such pixels or vectors."""
        if self.tokenizer is None:
            return to_bytes(data)
        vectors = rearrange(data / self.scale, "B h w C -> B (h w) C")
        return to_bytes(self.tokenizer.decode(self.tokenizer.codebook(vectors).ids))


def straight_path(start: Map, end: Map, time: Float[Array, " B"]) -> tuple[Map, Map]:
    """Where the line from `start` to `end` is at a time in [0, 1], and its velocity, the same at
    all times (arXiv:2209.03003, section 2.1).
    """
    at = time[:, None, None, None]
    return (1.0 - at) * start + at * end, end - start


def make_flow_generator(
    *,
    network: Mapping[str, Any],
    text: Mapping[str, Any] | None = None,
    classes: int = 0,
    tokenizer: Mapping[str, Any] | None = None,
    scale: kwargs.Number = 1.0,
    predicts: str = "velocity",
) -> FlowGenerator:
    """network: fields of `DiT`. text: name and fields of a text encoder, or classes: how many.
    tokenizer: fields of `ImageTokenizer`, or None for pixels. ValueError unless there is a text or
    classes, not both, and for an unknown `predicts`.
    """
    if bool(text) == bool(classes):
        raise ValueError("config.model needs text or classes to draw from, and not both")
    if predicts not in PREDICTS:
        raise ValueError(f"config.model.predicts={predicts!r}: choose one of {PREDICTS}")
    return FlowGenerator(
        network=kwargs.call(DiT, network, "config.model.network"),
        text=kwargs.build(TEXT_ENCODERS, text, "config.model.text") if text else None,
        classes=classes,
        tokenizer=kwargs.call(ImageTokenizer, tokenizer, "config.model.tokenizer")
        if tokenizer
        else None,
        scale=float(scale),
        predicts=predicts,
    )
