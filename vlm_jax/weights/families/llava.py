"""LLaVA-1.5 (arXiv:2310.03744): `LlavaForConditionalGeneration` folders with a CLIP tower and a
Llama-type language model.
"""

from typing import Any

from vlm_jax.weights.calls import language, read_pictures
from vlm_jax.weights.families import clip, llama
from vlm_jax.weights.family import (
    Config,
    Family,
    activation,
    caption_example,
    one_of,
    writing_tasks,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rules, dense

DEFAULTS: dict[str, Any] = dict(
    image_token_index=32000,
    projector_hidden_act="gelu",
    vision_feature_layer=-2,
    vision_feature_select_strategy="default",
    multimodal_projector_bias=True,
)
LARGE: dict[str, Any] = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)
"""The vision tower of a config.json that says nothing about it: CLIP L/14 at 336 pixels."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its text and its vision section, with everything filled in."""
    config = DEFAULTS | dict(config)
    if "image_token_id" in config:
        config["image_token_index"] = config["image_token_id"]
    given: dict[str, Any] = dict(config.get("vision_config") or {})
    vision = clip.VISION | (given or LARGE)
    one_of(dict(model_type="clip_vision_model") | vision, "model_type", {"clip_vision_model": 1})
    text = llama.filled(dict(config.get("text_config") or {}))
    one_of(dict(model_type="llama") | text, "model_type", {"llama": 1})
    text["tie_word_embeddings"] = config.get("tie_word_embeddings", text["tie_word_embeddings"])
    return config, text, vision


def depth(config: Config, vision: Config) -> int:
    """How many layers of the vision tower are read."""
    layer, layers = config["vision_feature_layer"], vision["num_hidden_layers"]
    if not isinstance(layer, int) or not -layers <= layer <= layers:
        raise WeightsError(
            f"config.json: vision_feature_layer={layer!r} is not supported; it must be one number "
            f"in [{-layers}, {layers}]"
        )
    return layer if layer >= 0 else layers + 1 + layer


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, text, vision = sections(config)
    keep = one_of(config, "vision_feature_select_strategy", {"default": False, "full": True})
    tower = clip.vision_fields(vision) | dict(
        stop=depth(config, vision), pooling="none", keep_class_token=keep
    )
    width = text["hidden_size"]
    return dict(
        vision=tower,
        connector=dict(
            name="mlp",
            widths=(width, width),
            activation=activation(config, "projector_hidden_act"),
            bias=config["multimodal_projector_bias"],
        ),
        decoder=llama.fields(text)
        | dict(memory="insert", image_token=config["image_token_index"], memory_projection=False),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    config, text, vision = sections(config)
    projector, biased = "multi_modal_projector", config["multimodal_projector_bias"]
    return [
        *clip.vision_rules("vision", "vision_tower.vision_model", vision),
        *dense("connector/dense_0", f"{projector}.linear_1", biased),
        *dense("connector/dense_1", f"{projector}.linear_2", biased),
        *llama.lm_rules(text, body="language_model.model", head="language_model."),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words."""
    return caption_example(sections(config)[2]["image_size"])


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = sections(config)[1]["tie_word_embeddings"]
    buffers = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")
    return (*buffers, r"language_model\.lm_head\.weight") if tied else buffers


def tasks(config: Config) -> dict[str, Any]:
    """Turns of the chat that LLaVA-1.5 was trained on."""
    config, text, vision = sections(config)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    whole = config["vision_feature_select_strategy"] == "full"
    picture = dict(name="run", token=config["image_token_index"], count=patches + whole)
    lengths = dict(length=128, question_length=256)
    # By its number: the reference's tokenizer puts it in front of a text that it has read.
    begins = text.get("bos_token_id") or 1
    begins, turn = f"{{{begins}}}", "USER: {picture}{prompt} ASSISTANT:"
    chat = dict(begins=begins, turn=turn, around="{picture}\n")
    template = begins + turn.replace("{picture}", chat["around"])
    prompt = "Describe this image."
    return writing_tasks(template, prompt=prompt, picture=picture, chat=chat, **lengths)


LLAVA = Family(
    model,
    rules,
    example,
    calls=language(read_pictures),
    renames=(
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
        (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
    ),
    ignored=ignored,
    tasks=tasks,
)
