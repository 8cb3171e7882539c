"""SigLIP (arXiv:2303.15343) and SigLIP 2 of one resolution (arXiv:2502.14786): `SiglipModel`.

Other families read its vision tower with `vision_fields` and `vision_rules`.
"""

from typing import Any

from vlm_jax.weights.calls import Inputs, nhwc, text_inputs, with_tokens
from vlm_jax.weights.families.clip import stack_fields, stack_rules
from vlm_jax.weights.family import Config, Family, of_class, pair_example, require, square
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rule, Rules, dense, fused_attention, norm, patches, reshaped

STACK: dict[str, Any] = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)
TEXT: dict[str, Any] = STACK | dict(
    vocab_size=32000, max_position_embeddings=64, projection_size=None
)
VISION: dict[str, Any] = STACK | dict(
    num_channels=3, image_size=224, patch_size=16, vision_use_head=True
)
"""What a config.json that leaves a key out means by it."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text and vision sections with everything filled in."""
    of_class(config, "SiglipModel", "Siglip2Model")
    text = TEXT | dict(config.get("text_config") or {})
    return text, VISION | dict(config.get("vision_config") or {})


def vision_fields(section: Config) -> dict[str, Any]:
    """A ViT without class token, pooled by attention unless the section turns its head off."""
    section = VISION | dict(section)
    require(section, num_channels=3)
    return dict(
        name="vit",
        patch=square(section, "patch_size"),
        image_size=square(section, "image_size"),
        class_token=False,
        pooling="attention" if section["vision_use_head"] else "none",
        resize="bicubic",
        **stack_fields(section),
    )


def vision_rules(ours: str, theirs: str, section: Config) -> Rules:
    """The vision tower."""
    section = VISION | dict(section)
    form = patches(square(section, "patch_size"), section["num_channels"])
    return [
        *dense(f"{ours}/patch_embedding", f"{theirs}.embeddings.patch_embedding", form=form),
        *tower_rules(ours, theirs, section),
    ]


def tower_rules(ours: str, theirs: str, section: Config) -> Rules:
    """The vision tower but for what makes vectors of patches."""
    rules = [
        Rule(f"{ours}/position", f"{theirs}.embeddings.position_embedding.weight"),
        *stack_rules(f"{ours}/transformer/layers", f"{theirs}.encoder.layers"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.post_layernorm"),
    ]
    if not section["vision_use_head"]:
        return rules
    pooling, head = f"{ours}/attention_pooling", f"{theirs}.head"
    weight, bias = (f"{head}.attention.in_proj_{kind}" for kind in ("weight", "bias"))
    return [
        *rules,
        Rule(f"{pooling}/probe", f"{head}.probe"),
        *fused_attention(f"{pooling}/attention", weight, bias, f"{head}.attention.out_proj"),
        *norm(f"{pooling}/norm", f"{head}.layernorm"),
        *dense(f"{pooling}/mlp/up", f"{head}.mlp.fc1"),
        *dense(f"{pooling}/mlp/down", f"{head}.mlp.fc2"),
    ]


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    _, vision = sections(config)
    return pair(config, vision_fields(vision))


def pair(config: Config, vision: dict[str, Any]) -> dict[str, Any]:
    """Both towers, whose summaries have the same width, and the sigmoid loss's two scalars."""
    text, section = sections(config)
    width = text["projection_size"] or text["hidden_size"]
    if not section["vision_use_head"] or width != section["hidden_size"]:
        raise WeightsError(
            f"config.json: text projection_size={width!r}, vision hidden_size="
            f"{section['hidden_size']!r}, vision_use_head={section['vision_use_head']!r}: "
            "a dual encoder needs equal widths and the head"
        )
    return dict(
        vision=vision,
        text=dict(
            name="transformer",
            vocab=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            attend_padding=True,
            pooling="end",
            pooler="linear",
            pooler_width=width,
            **stack_fields(text),
        ),
        contrast=dict(size=width, project=(), bias=0.0, max_scale=float("inf")),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    return [*vision_rules("vision", "vision_model", sections(config)[1]), *pair_rules()]


def pair_rules() -> Rules:
    """The text tower and the scalars."""
    embeddings, scalar = "text_model.embeddings", reshaped((), (1,))
    return [
        Rule("text/embedding/token/embedding", f"{embeddings}.token_embedding.weight"),
        Rule("text/embedding/position", f"{embeddings}.position_embedding.weight"),
        *stack_rules("text/transformer/layers", "text_model.encoder.layers"),
        *norm("text/transformer/final_norm", "text_model.final_layer_norm"),
        *dense("text/pooler_dense", "text_model.head"),
        Rule("contrast_head/logit_scale", "logit_scale", scalar),
        Rule("contrast_head/logit_bias", "logit_bias", scalar),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    size = square(sections(config)[1], "image_size")
    return pair_example(size), {"contrast": "contrast"}


def seen_text(inputs: Inputs) -> dict[str, Any]:
    """Padding is text to this tower, unless a mask is given that says otherwise."""
    given = text_inputs(inputs)
    return given | ({"text_visible": given["text_mask"]} if "attention_mask" in inputs else {})


def contrast(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """The towers' last states, embeddings and scaled products."""
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return with_tokens(apply, visual, seen_text(inputs))


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with texts of the trained length, padding included."""
    return {"retrieval": dict(length=sections(config)[0]["max_position_embeddings"])}


SIGLIP = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    ignored=(r".*\.position_ids",),
    tasks=tasks,
)
