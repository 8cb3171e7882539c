"""`VisionTextDualEncoderModel`: two towers of any kinds side by side, as in LiT (arXiv:2111.07991)
and ALIGN (arXiv:2102.05918).

The reference composes ViT, CLIP or SigLIP vision towers with BERT or CLIP text towers; ResNets and
SigLIP's text towers have the same names of tensors here as those get there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlm_jax.weights.calls import (
    Inputs,
    contrasted,
    convolutional,
    nhwc,
    text_inputs,
    with_tokens,
)
from vlm_jax.weights.families import bert, clip, resnet, siglip, vit
from vlm_jax.weights.family import TWO_WORDS, Config, Family, one_of, picture, require, sides
from vlm_jax.weights.fused_calls import typed_inputs
from vlm_jax.weights.rules import Rule, Rules, dense

TOWER = (
    r"(embeddings\.(?:class_embedding|(?:patch|position)_embedding\.|position_ids)"
    r"|encoder\.layers\.|pre_layrnorm|post_layernorm|head\.)"
)
"""What begins the names of a CLIP or SigLIP vision tower, and of no ViT's."""

WORDS = r"(embeddings\.(?:token|position)_embedding\.|encoder\.layers\.|final_layer_norm|head\.)"
"""What begins the names of a CLIP or SigLIP text tower, and of no BERT's."""

RENAMES = (
    *vit.RENAMES,
    *bert.RENAMES,
    (rf"^vision_model\.{TOWER}", r"vision_model.vision_model.\1"),
    (rf"^text_model\.{WORDS}", r"text_model.text_model.\1"),
)


@dataclass(frozen=True)
class Tower:
    """A kind of tower. fields: its section of config.json as one of ours; rules: its part of the
    mapping table; usual: what the section means where it leaves a key out.
    """

    fields: Callable[[Config], dict[str, Any]]
    rules: Callable[[Config], Rules]
    usual: Mapping[str, Any]


def _own(
    family: Family, part: str, prefix: str, whole: Callable[[Config], Config], usual: Config
) -> Tower:
    """The tower that another family has as `part`. whole: from its section to that family's
    config.json. prefix: of its tensors' names here.
    """

    def rules(section: Config) -> Rules:
        mine = lambda rule: rule.paths[0].removeprefix("batch_stats/").startswith(f"{part}/")
        found = filter(mine, family.rules(whole(section)))
        return [replace(rule, theirs=prefix + rule.theirs) for rule in found]

    return Tower(lambda section: family.model(whole(section))[part], rules, usual)


def _siglip_text(config: Config) -> dict[str, Any]:
    """SigLIP's config.json with this text section, and a vision section of the same width."""
    width = config["projection_size"] or config["hidden_size"]
    return dict(text_config=config, vision_config=dict(hidden_size=width))


def _siglip_fields(section: Config) -> dict[str, Any]:
    require(section, vision_use_head=True)
    return siglip.vision_fields(section)


def _clip_rules(section: Config) -> Rules:
    return clip.vision_rules("vision", "vision_model.vision_model", section, last="final_norm")


def _bert_rules(section: Config) -> Rules:
    types = section["type_vocab_size"] > 0
    return bert.encoder_rules("text", "text_model.", types=types)


VISION = {
    "vit": Tower(vit.vision_fields, lambda s: vit.vision_rules("vision", "vision_model.", s), {}),
    "clip_vision_model": Tower(
        lambda section: clip.vision_fields(section) | clip.AS_RETURNED, _clip_rules, clip.VISION
    ),
    "siglip_vision_model": Tower(
        _siglip_fields,
        lambda section: siglip.vision_rules("vision", "vision_model.vision_model", section),
        {},
    ),
    "resnet": _own(
        resnet.RESNET,
        "vision",
        "vision_model.",
        lambda section: {**section, "architectures": ["ResNetModel"]},
        {},
    ),
}
"""Vision towers by their model_type."""

TEXT = {
    "bert": Tower(bert.fields, _bert_rules, bert.DEFAULTS),
    "clip_text_model": _own(
        clip.CLIP, "text", "text_model.", lambda section: {"text_config": section}, clip.TEXT
    ),
    "siglip_text_model": _own(siglip.SIGLIP, "text", "text_model.", _siglip_text, siglip.TEXT),
}
"""Text towers by their model_type: those whose reference gives one vector of a text."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text and the vision section, filled in. WeightsError for a tower that is not here."""
    text = dict(model_type="bert") | dict(config.get("text_config") or {})
    vision = dict(model_type="vit") | dict(config.get("vision_config") or {})
    if one_of(text, "model_type", TEXT) is TEXT["bert"]:
        text = bert.filled(text)
    usual = one_of(vision, "model_type", VISION).usual
    return {**TEXT[text["model_type"]].usual, **text}, {**usual, **vision}


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, vision = sections(config)
    return dict(
        vision=VISION[vision["model_type"]].fields(vision),
        text=TEXT[text["model_type"]].fields(text),
        contrast=dict(size=config.get("projection_dim", 512), max_scale=float("inf")),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    text, vision = sections(config)
    return [
        *VISION[vision["model_type"]].rules(vision),
        *TEXT[text["model_type"]].rules(text),
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
    given = _read_text(apply, inputs)
    if apply(method=lambda model: hasattr(model.vision, "stages")):
        seen = {"image_tokens": convolutional(visual, inputs["pixel_values"])["image_tokens"]}
        seen["text_tokens"] = apply(given, method="encode_text").tokens
        return contrasted(apply, visual, given) | seen
    return with_tokens(apply, visual, given)


def _read_text(apply: Any, inputs: Inputs) -> dict[str, Any]:
    """What each kind of text tower reads: segments, padding as text, or neither."""
    if apply(method=lambda model: model.text.token_types):
        return typed_inputs(inputs)
    whole = apply(method=lambda model: model.text.attend_padding)
    return siglip.seen_text(inputs) if whole else text_inputs(inputs)


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with captions, of SigLIP's text tower with texts of the trained length."""
    text, _ = sections(config)
    most = text["max_position_embeddings"]
    whole = text["model_type"] == "siglip_text_model"
    return {"retrieval": dict(length=most if whole else min(64, most))}


DUAL = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    renames=RENAMES,
    ignored=(r".*\.position_ids", r".*\.token_type_ids", r".*\.num_batches_tracked"),
    tasks=tasks,
)
