"""Gemma 3 with images (arXiv:2503.19786): `Gemma3ForConditionalGeneration` folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, language, read_pictures
from vlm_jax.weights.families import gemma, paligemma, siglip
from vlm_jax.weights.family import (
    Config,
    Family,
    caption_example,
    one_of,
    square,
    writing_tasks,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rule, Rules, norm

DEFAULTS: dict[str, Any] = dict(
    image_token_index=262144, mm_tokens_per_image=256, tie_word_embeddings=True
)
"""What a config.json that leaves a key out means by it."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its text and its vision section, with everything filled in."""
    config = DEFAULTS | dict(config)
    if "image_token_id" in config:
        config["image_token_index"] = config["image_token_id"]
    vision = siglip.VISION | dict(config.get("vision_config") or {})
    one_of(
        dict(model_type="siglip_vision_model") | vision, "model_type", {"siglip_vision_model": 1}
    )
    text = gemma.filled(dict(model_type="gemma3_text") | dict(config.get("text_config") or {}))
    one_of(text, "model_type", {"gemma3_text": 1})
    return config, text | dict(tie_word_embeddings=config["tie_word_embeddings"]), vision


def block(config: Config, vision: Config) -> int:
    """How many patches, along each side, are averaged to one token."""
    side = square(vision, "image_size") // square(vision, "patch_size")
    found = side // int(config["mm_tokens_per_image"] ** 0.5)
    if found < 1:
        raise WeightsError(
            f"config.json: mm_tokens_per_image={config['mm_tokens_per_image']!r} is more than the "
            f"{side} x {side} patches of an image"
        )
    return found


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, text, vision = sections(config)
    return dict(
        vision=siglip.vision_fields(vision),
        connector=dict(
            name="pool",
            side=block(config, vision),
            width=text["hidden_size"],
            epsilon=vision["layer_norm_eps"],
        ),
        # The cap on the logits is that of the language model alone: the reference applies none.
        decoder=gemma.fields(text)
        | dict(
            logits_softcap=None,
            memory="insert",
            image_token=config["image_token_index"],
            memory_projection=False,
            bidirectional="memory",
            windowed_blocks=True,
        ),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, text, vision = sections(config)
    projector = "multi_modal_projector"
    return [
        *siglip.vision_rules("vision", "vision_tower.vision_model", vision),
        *norm("connector/norm", f"{projector}.mm_soft_emb_norm", kind="rms_offset"),
        Rule("connector/dense/kernel", f"{projector}.mm_input_projection_weight"),
        *gemma.lm_rules(text, body="language_model.model", head="language_model."),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words."""
    return caption_example(square(sections(config)[2], "image_size"))


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Pictures and text. An image is read in both directions where token_type_ids are given; they
    are taken to mark the image tokens.
    """
    memory, given = read_pictures(apply, inputs)
    return memory, given | dict(causal="token_type_ids" not in inputs)


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = sections(config)[1]["tie_word_embeddings"]
    buffers = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")
    return (*buffers, r"language_model\.lm_head\.weight") if tied else buffers


def tasks(config: Config) -> dict[str, Any]:
    """Turns of the chat of the instruction-tuned models."""
    config, _, _ = sections(config)
    count = config["mm_tokens_per_image"]
    picture = dict(name="crops", token=config["image_token_index"], count=count)
    picture |= dict(around="\n\n<start_of_image>{picture}<end_of_image>\n\n")
    turn = "<start_of_turn>user\n{picture}{prompt}<end_of_turn>\n<start_of_turn>model\n"
    chat = dict(begins="{bos}", turn=turn, between="\n", ends="<end_of_turn>")
    lengths: Any = dict(length=128, question_length=256, chat=chat)
    prompt = "Describe this image."
    return writing_tasks("{bos}" + turn, prompt=prompt, picture=picture, **lengths)


def agree(config: Config, inputs: Mapping[str, np.ndarray]) -> None:
    """ValueError for token_type_ids that mark anything but the image tokens."""
    types, ids = inputs.get("token_type_ids"), inputs.get("input_ids")
    token = sections(config)[0]["image_token_index"]
    if types is not None and ids is not None and ((types == 1) != (ids == token)).any():
        raise ValueError(
            f"token_type_ids other than 1 at the image tokens, {token}, and 0 elsewhere"
        )


GEMMA3 = Family(
    model,
    rules,
    example,
    calls=language(read),
    renames=paligemma.RENAMES,
    ignored=ignored,
    tasks=tasks,
    agree=agree,
)
