"""Idefics3 (arXiv:2408.12637) and SmolVLM (arXiv:2504.05299): `Idefics3ForConditionalGeneration`
and `SmolVLMForConditionalGeneration` folders. An image is a row of tiles.
"""

from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language, nhwc
from vlm_jax.weights.families import llama, qwen2, siglip
from vlm_jax.weights.family import (
    Config,
    Family,
    caption_example,
    one_of,
    square,
    writing_tasks,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rules, dense

DEFAULTS: dict[str, Any] = dict(image_token_id=128257, scale_factor=2, tie_word_embeddings=False)
VISION: dict[str, Any] = siglip.VISION | dict(
    hidden_size=1152, num_attention_heads=16, patch_size=32
)
TEXT: dict[str, Any] = dict(rms_norm_eps=1e-5)
"""What a config.json that leaves a key or a whole section out means by it."""

LANGUAGES = {"llama": llama, "qwen2": qwen2}
"""Language models by the model_type of their section."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its text and its vision section, with everything filled in."""
    config = DEFAULTS | dict(config)
    vision = VISION | dict(config.get("vision_config") or {}) | dict(vision_use_head=False)
    text = dict(model_type="llama") | (dict(config.get("text_config") or {}) or TEXT)
    return config, text | dict(tie_word_embeddings=config["tie_word_embeddings"]), vision


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, text, vision = sections(config)
    language_model, scale = one_of(text, "model_type", LANGUAGES), config["scale_factor"]
    fields, side = siglip.vision_fields(vision), square(vision, "image_size")
    if side // fields["patch"] % scale:
        raise WeightsError(
            f"config.json: scale_factor={scale!r} does not divide the {side // fields['patch']} "
            "patches along an image's side"
        )
    decoder = language_model.fields(text)
    return dict(
        vision=fields | dict(resize="nearest", block=scale),
        connector=dict(name="merge", side=scale, widths=(decoder["width"],), bias=False),
        decoder=decoder
        | dict(memory="insert", image_token=config["image_token_id"], memory_projection=False),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, text, vision = sections(config)
    language_model = one_of(text, "model_type", LANGUAGES)
    return [
        *siglip.vision_rules("vision", "model.vision_model", vision),
        *dense("connector/mlp/dense_0", "model.connector.modality_projection.proj", bias=False),
        *language_model.lm_rules(text, body="model.text_model"),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One tile and two words."""
    return caption_example(square(sections(config)[2], "image_size"))


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Tiles, pixel_values [B, N, 3, H, W], of which those that are all 0 fill up; and the text.

    pixel_attention_mask: [B, N, H, W], which pixels are no padding.
    """
    given = decoder_inputs(inputs)
    if "pixel_values" not in inputs:
        return None, given
    pixels = inputs["pixel_values"]
    tiles = nhwc(pixels.reshape(-1, *pixels.shape[2:]))
    real = jnp.any(tiles != 0, axis=(1, 2, 3))  # [B * N]
    seen = inputs.get("pixel_attention_mask")
    seen = jnp.ones(tiles.shape[:3]) if seen is None else seen.reshape(tiles.shape[:3])
    patch = apply(method=lambda network: network.vision.patch)
    rows, columns = tiles.shape[1] // patch, tiles.shape[2] // patch
    seen = seen[:, : rows * patch, : columns * patch].reshape(-1, rows, patch, columns, patch)
    mask = jnp.any(seen != 0, axis=(2, 4)).reshape(len(tiles), -1) & real[:, None]
    visual = apply(tiles, mask=mask, method="encode_image")
    # Padding within a tile takes part: its tokens are as many as those of any other.
    whole = jnp.broadcast_to(real[:, None], visual.mask.shape)
    memory = apply(visual._replace(mask=whole), given["tokens"], method="deal")
    # The reference drops the tiles that fill up: here they come last, and are 0.
    kept = jnp.where(whole[..., None], visual.tokens, 0)[jnp.argsort(~real, stable=True)]
    return memory, given | {"image_tokens": kept}


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    buffers = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")
    return (*buffers, r"lm_head\.weight") if sections(config)[1]["tie_word_embeddings"] else buffers


def tasks(config: Config) -> dict[str, Any]:
    """Turns of the chat of the instruction-tuned models."""
    config, _, vision = sections(config)
    side = square(vision, "image_size") // square(vision, "patch_size")
    count = (side // config["scale_factor"]) ** 2
    picture = dict(name="tiles", token=config["image_token_id"], count=count)
    picture |= dict(around="<fake_token_around_image>", whole="<global-img>")
    turn = "User:{picture}{prompt}<end_of_utterance>\nAssistant:"
    chat = dict(begins="{bos}", turn=turn, alone=turn.replace("{picture}", " "), between="\n")
    chat |= dict(ends="<end_of_utterance>")
    lengths: Any = dict(length=128, question_length=256, chat=chat)
    prompt = "Describe this image."
    return writing_tasks("{bos}" + turn, prompt=prompt, picture=picture, **lengths)


IDEFICS3 = Family(model, rules, example, calls=language(read), ignored=ignored, tasks=tasks)
