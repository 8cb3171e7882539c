"""SigLIP 2 NaFlex (arXiv:2502.14786, section 2.4): `Siglip2Model`, images of any aspect ratio."""

import math
from typing import Any

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, with_tokens
from vlm_jax.weights.families import siglip
from vlm_jax.weights.family import Config, Family, pair_example, require, square
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rules, dense

PATCHES = 256
"""Positions of a config.json that does not count them."""


def filled(config: Config) -> dict[str, Any]:
    """The vision section with everything filled in, and the image size that fills its positions."""
    section = siglip.sections(config)[1]
    require(section, num_channels=3)
    count = section.get("num_patches", PATCHES)
    side = math.isqrt(count)
    if side * side != count:
        raise WeightsError(f"config.json: num_patches={count!r} is not supported, only squares are")
    return section | dict(image_size=side * square(section, "patch_size"))


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    return siglip.pair(config, siglip.vision_fields(filled(config)) | dict(resize="bilinear"))


def rules(config: Config) -> Rules:
    """The mapping table."""
    return [
        *dense("vision/patch_embedding", "vision_model.embeddings.patch_embedding"),
        *siglip.tower_rules("vision", "vision_model", filled(config)),
        *siglip.pair_rules(),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    return pair_example(filled(config)["image_size"]), {"contrast": "contrast"}


def contrast(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """The towers' last states, embeddings and scaled products."""
    return with_tokens(apply, see(apply, inputs), siglip.seen_text(inputs))


def see(apply: Any, inputs: Inputs) -> Features:
    """Of pixel_values, patches [B, S, P]; spatial_shapes [B, 2]; pixel_attention_mask [B, S]."""
    mask = inputs.get("pixel_attention_mask")
    given = dict(shapes=inputs["spatial_shapes"], mask=None if mask is None else mask != 0)
    return apply(inputs["pixel_values"], **given, method="encode_image")


SIGLIP2 = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    ignored=(r".*\.position_ids",),
    tasks=siglip.tasks,
)
