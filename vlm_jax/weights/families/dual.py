"""`VisionTextDualEncoderModel`: a ViT, CLIP or SigLIP vision tower beside a BERT, as in LiT
(arXiv:2111.07991).
"""

from typing import Any

from vlm_jax.weights.calls import Inputs, nhwc, with_tokens
from vlm_jax.weights.families import bert, clip, siglip, vit
from vlm_jax.weights.family import TWO_WORDS, Config, Family, one_of, picture, require, sides
from vlm_jax.weights.fused_calls import typed_inputs
from vlm_jax.weights.rules import Rule, Rules, dense

TOWER = (
    r"(embeddings\.(?:class_embedding|(?:patch|position)_embedding\.|position_ids)"
    r"|encoder\.layers\.|pre_layrnorm|post_layernorm|head\.)"
)
"""What begins the names of a CLIP or SigLIP tower, and of no ViT's."""

RENAMES = (
    *vit.RENAMES,
    *bert.RENAMES,
    (rf"^vision_model\.{TOWER}", r"vision_model.vision_model.\1"),
)


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text section, filled in, and the vision section."""
    text = dict(model_type="bert") | dict(config.get("text_config") or {})
    one_of(text, "model_type", {"bert": 1})
    return bert.filled(text), dict(model_type="vit") | dict(config.get("vision_config") or {})


def _vit_fields(section: Config) -> dict[str, Any]:
    return vit.vision_fields(section)


def _clip_fields(section: Config) -> dict[str, Any]:
    return clip.vision_fields(clip.VISION | dict(section)) | clip.AS_RETURNED


def _siglip_fields(section: Config) -> dict[str, Any]:
    require(section, vision_use_head=True)
    return siglip.vision_fields(section)


FIELDS = {
    "vit": _vit_fields,
    "clip_vision_model": _clip_fields,
    "siglip_vision_model": _siglip_fields,
}
"""Vision towers by their model_type."""


def vision_rules(section: Config) -> Rules:
    """The vision tower."""
    prefix = "vision_model.vision_model"
    if section["model_type"] == "vit":
        return vit.vision_rules("vision", "vision_model.", section)
    if section["model_type"] == "clip_vision_model":
        section = clip.VISION | dict(section)
        return clip.vision_rules("vision", prefix, section, last="final_norm")
    return siglip.vision_rules("vision", prefix, section)


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, vision = sections(config)
    return dict(
        vision=one_of(vision, "model_type", FIELDS)(vision),
        text=bert.fields(text),
        contrast=dict(size=config.get("projection_dim", 512), max_scale=float("inf")),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    text, vision = sections(config)
    types = text["type_vocab_size"] > 0
    return [
        *vision_rules(vision),
        *bert.encoder_rules("text", "text_model.", types=types),
        *dense("contrast_head/image", "visual_projection", bias=False),
        *dense("contrast_head/text", "text_projection", bias=False),
        Rule("contrast_head/logit_scale", "logit_scale"),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    height, width = sides(dict(image_size=224) | sections(config)[1], "image_size")
    return {"image": picture(height, width), "contrast": TWO_WORDS}, {"contrast": "contrast"}


def contrast(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """The towers' last states, embeddings and scaled products."""
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return with_tokens(apply, visual, typed_inputs(inputs))


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with captions."""
    text, _ = sections(config)
    return {"retrieval": dict(length=min(64, text["max_position_embeddings"]))}


DUAL = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    renames=RENAMES,
    ignored=(r".*\.position_ids", r".*\.token_type_ids"),
    tasks=tasks,
)
