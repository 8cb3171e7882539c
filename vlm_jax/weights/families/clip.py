"""CLIP (arXiv:2103.00020): `CLIPModel` folders."""

from typing import Any

from vlm_jax.weights.calls import contrast_and_tokens as contrast
from vlm_jax.weights.family import (
    Config,
    Family,
    activation,
    of_class,
    pair_example,
    require,
    square,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm, patches, reshaped

TEXT = dict(
    vocab_size=49408,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    eos_token_id=49407,
)
VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_channels=3,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
"""What a config.json that leaves a key out means by it."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text and vision sections with everything filled in.

    text_config_dict and vision_config_dict, in folders of the first releases, stand for whole
    sections and win.
    """
    of_class(config, "CLIPModel")
    given = lambda name: config.get(f"{name}_dict") or config.get(name) or {}
    text, vision = TEXT | dict(given("text_config")), VISION | dict(given("vision_config"))
    if not isinstance(text["eos_token_id"], int):
        raise WeightsError(
            f"config.json: eos_token_id={text['eos_token_id']!r} is not supported, only one id is"
        )
    return text, vision


def stack_fields(section: Config) -> dict[str, Any]:
    """Fields of a Transformer from a section in this style."""
    return dict(
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=activation(section),
        epsilon=section["layer_norm_eps"],
    )


def stack_rules(ours: str, theirs: str) -> Rules:
    """The layers of a pre-norm stack in this style."""
    return [
        *attention(f"{ours}/self_attention", f"{theirs}.{{}}.self_attn"),
        *norm(f"{ours}/self_norm", f"{theirs}.{{}}.layer_norm1"),
        *norm(f"{ours}/mlp_norm", f"{theirs}.{{}}.layer_norm2"),
        *dense(f"{ours}/mlp/up", f"{theirs}.{{}}.mlp.fc1"),
        *dense(f"{ours}/mlp/down", f"{theirs}.{{}}.mlp.fc2"),
    ]


AS_RETURNED = dict(norm_tokens=False, keep_class_token=True)
"""Fields of a vision tower whose last states, class token first, are handed on without the norm."""


def vision_fields(section: Config) -> dict[str, Any]:
    """A ViT with CLIP's class token, norm before the layers and patches without bias."""
    require(section, num_channels=3)
    return dict(
        name="vit",
        patch=square(section, "patch_size"),
        image_size=square(section, "image_size"),
        resize="bicubic",
        pre_norm=True,
        patch_bias=False,
        **stack_fields(section),
    )


def vision_rules(
    ours: str, theirs: str, section: Config, last: str = "transformer/final_norm"
) -> Rules:
    """The vision tower. last: where ours has its last norm."""
    patch, width = square(section, "patch_size"), section["hidden_size"]
    embeddings = f"{theirs}.embeddings"
    form = patches(patch, section["num_channels"])
    return [
        Rule(f"{ours}/patch_embedding/kernel", f"{embeddings}.patch_embedding.weight", form),
        Rule(f"{ours}/position", f"{embeddings}.position_embedding.weight"),
        Rule(
            f"{ours}/class_token",
            f"{embeddings}.class_embedding",
            reshaped((1, 1, width), (width,)),
        ),
        *norm(f"{ours}/embeddings_norm", f"{theirs}.pre_layrnorm"),
        *stack_rules(f"{ours}/transformer/layers", f"{theirs}.encoder.layers"),
        *norm(f"{ours}/{last}", f"{theirs}.post_layernorm"),
    ]


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, vision = sections(config)
    # Folders made before the end token's id was recorded say 2, and mean the largest id.
    pooling = (
        dict(pooling="largest")
        if text["eos_token_id"] == 2
        else dict(pooling="first_eos", eos_id=text["eos_token_id"])
    )
    return dict(
        vision=vision_fields(vision) | AS_RETURNED,
        text=dict(
            name="transformer",
            vocab=text["vocab_size"],
            max_length=text["max_position_embeddings"],
            causal=True,
            **pooling,
            **stack_fields(text),
        ),
        contrast=dict(size=config.get("projection_dim", 512), max_scale=float("inf")),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, vision = sections(config)
    embeddings = "text_model.embeddings"
    return [
        *vision_rules("vision", "vision_model", vision, last="final_norm"),
        Rule("text/embedding/token/embedding", f"{embeddings}.token_embedding.weight"),
        Rule("text/embedding/position", f"{embeddings}.position_embedding.weight"),
        *stack_rules("text/transformer/layers", "text_model.encoder.layers"),
        *norm("text/transformer/final_norm", "text_model.final_layer_norm"),
        *dense("contrast_head/image", "visual_projection", bias=False),
        *dense("contrast_head/text", "text_projection", bias=False),
        Rule("contrast_head/logit_scale", "logit_scale"),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    _, vision = sections(config)
    return pair_example(square(vision, "image_size")), {"contrast": "contrast"}


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with texts of the trained length."""
    text, _ = sections(config)
    return {"retrieval": dict(length=text["max_position_embeddings"])}


CLIP = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    ignored=(r".*\.position_ids",),
    tasks=tasks,
)
