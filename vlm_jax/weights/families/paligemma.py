"""PaliGemma (arXiv:2407.07726) and PaliGemma 2 (2412.03555): `PaliGemmaForConditionalGeneration`
folders, a SigLIP tower and a Gemma or Gemma 2 language model.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, language, read_pictures
from vlm_jax.weights.families import gemma, siglip
from vlm_jax.weights.family import (
    Config,
    Family,
    caption_example,
    one_of,
    square,
    writing_tasks,
)
from vlm_jax.weights.rules import Rules, dense

DEFAULTS: dict[str, Any] = dict(
    image_token_index=256000, projection_dim=2048, tie_word_embeddings=True
)
LARGE: dict[str, Any] = dict(
    hidden_size=1152,
    intermediate_size=4096,
    num_hidden_layers=27,
    num_attention_heads=16,
    patch_size=14,
    vision_use_head=False,
)
TEXT: dict[str, Any] = dict(
    vocab_size=257152,
    hidden_size=2048,
    intermediate_size=16384,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
)
"""What a config.json that leaves a key or a whole section out means by it."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its text and its vision section, with everything filled in."""
    config = DEFAULTS | dict(config)
    if "image_token_id" in config:
        config["image_token_index"] = config["image_token_id"]
    vision = siglip.VISION | (dict(config.get("vision_config") or {}) or LARGE)
    one_of(
        dict(model_type="siglip_vision_model") | vision, "model_type", {"siglip_vision_model": 1}
    )
    text = gemma.filled(dict(config.get("text_config") or {}) or TEXT)
    one_of(text, "model_type", {"gemma": 1, "gemma2": 1})
    # Here the prompt is read in both directions, which a prefix says; the text after it is not.
    both = dict(use_bidirectional_attention=None)
    return config, text | both | dict(tie_word_embeddings=config["tie_word_embeddings"]), vision


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, text, vision = sections(config)
    return dict(
        vision=siglip.vision_fields(vision),
        connector=dict(name="mlp", widths=(config["projection_dim"],)),
        decoder=gemma.fields(text)
        | dict(
            memory="insert",
            image_token=config["image_token_index"],
            memory_projection=False,
            bidirectional="prompt",
        ),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, text, vision = sections(config)
    return [
        *siglip.vision_rules("vision", "vision_tower.vision_model", vision),
        *dense("connector/dense_0", "multi_modal_projector.linear"),
        *gemma.lm_rules(text, body="language_model.model", head="language_model."),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words."""
    return caption_example(square(sections(config)[2], "image_size"))


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Pictures and text; the prompt is what token_type_ids calls 0, or nothing without them."""
    memory, given = read_pictures(apply, inputs)
    if "token_type_ids" not in inputs:
        return memory, given
    prompt = (inputs["token_type_ids"] == 0) & given["tokens_mask"]
    return memory, given | {"prefix": jnp.sum(prompt, axis=1, dtype=jnp.int32)}


def read_once(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """`read`, as the reference's forward pass has it where token_type_ids are missing: its default
    attention for Gemma 1 then reads everything in both directions, unless something is padding.
    """
    memory, given = read(apply, inputs)
    first = apply(method=lambda network: not network.decoder.sandwich)
    if "token_type_ids" in inputs or not first:
        return memory, given
    real = given["tokens_mask"]
    whole = jnp.full(len(real), real.shape[1], jnp.int32)
    return memory, given | {"prefix": jnp.where(jnp.all(real), whole, given["prefix"])}


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = sections(config)[1]["tie_word_embeddings"]
    buffers = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")
    return (*buffers, r"language_model\.lm_head\.weight") if tied else buffers


RENAMES = (
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""From the names of a network in memory to those of published files, as for LLaVA."""


def tasks(config: Config) -> dict[str, Any]:
    """Captions and answers in English, by the prefixes of the published mixtures."""
    config, _, vision = sections(config)
    count = (square(vision, "image_size") // square(vision, "patch_size")) ** 2
    picture = dict(name="run", token=config["image_token_index"], count=count)
    template = "{picture}{bos}{prompt}\n"
    found = writing_tasks(template, prompt="caption en", picture=picture)
    found["vqa_generation"]["template"] = "{picture}{bos}answer en {prompt}\n"
    return found


def agree(config: Config, inputs: Mapping[str, np.ndarray]) -> None:
    """ValueError for token_type_ids that do not begin with the prompt's."""
    types = inputs.get("token_type_ids")
    if types is None:
        return
    real = inputs.get("attention_mask", np.ones_like(types)) != 0
    written = np.maximum.accumulate(real & (types != 0), axis=1)
    if (written & real & (types == 0)).any():
        raise ValueError("token_type_ids with a prompt, 0, after what is written, 1")


PALIGEMMA = Family(
    model,
    rules,
    example,
    calls=language(read) | {"forward": language(read_once)["forward"]},
    renames=RENAMES,
    ignored=ignored,
    tasks=tasks,
    agree=agree,
)
