"""ViT (arXiv:2010.11929): `ViTModel`, with its pooler or without, and `ViTForImageClassification`.

Other families read their ViT with `vision_fields` and `vision_rules`.
"""

from typing import Any

from vlm_jax.weights.calls import UNNORMED, Inputs, nhwc, observed
from vlm_jax.weights.calls import classifies as classified
from vlm_jax.weights.families.clip import stack_fields
from vlm_jax.weights.family import (
    Config,
    Family,
    Shapes,
    activation,
    labels,
    one_of,
    picture,
    require,
    sides,
    square,
)
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm, patches, reshaped

DEFAULTS: dict[str, Any] = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
    num_channels=3,
    qkv_bias=True,
    pooler_output_size=None,
    pooler_act="tanh",
    head_dim=None,
    has_pooler=True,
)
"""What a config.json that leaves a key out means by it. has_pooler is no key of published
ones: there the tensors tell.
"""

CLASSIFIER = {"ViTModel": False, "ViTForImageClassification": True}
RENAMES = (
    (r"(?<!encoder\.)\blayers\.(\d+)\.(attention|mlp|layernorm)", r"encoder.layer.\1.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
    (r"encoder\.layer\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
    (r"encoder\.layer\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
    (r"encoder\.layer\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"encoder\.layer\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"encoder\.layer\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
)
"""The names that newer releases of the reference give a new model."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    config = DEFAULTS | dict(config)
    require(config, num_channels=3)
    return config


def classifies(config: Config) -> bool:
    """Whether the folder is a classifier's."""
    name = (config.get("architectures") or ["ViTModel"])[0]
    return one_of(dict(architectures=name), "architectures", CLASSIFIER)


def vision_fields(config: Config) -> dict[str, Any]:
    """The network without its classifier; `pooled` is the pooler's output, or the class token."""
    config = filled(config)
    pooled = config["has_pooler"]
    act = activation(config, "pooler_act")
    return dict(
        name="vit",
        patch=square(config, "patch_size"),
        image_size=sides(config, "image_size"),
        resize="bicubic",
        keep_class_token=True,
        attention=dict(bias=config["qkv_bias"], head_dim=config["head_dim"]),
        pooler=act if pooled else None,
        pooler_width=(config["pooler_output_size"] or None) if pooled else None,
        **stack_fields(config),
    )


def vision_rules(ours: str, theirs: str, config: Config) -> Rules:
    """The network without its classifier. theirs: their prefix, with its point."""
    config = filled(config)
    embeddings, layer, width = f"{theirs}embeddings", f"{theirs}encoder.layer.{{}}", (1, 1, -1)
    names = [f"attention.{name}" for name in ("query", "key", "value")] + ["output.dense"]
    layers = f"{ours}/transformer/layers"
    form = patches(square(config, "patch_size"))
    positions = reshaped((-1, config["hidden_size"]), (1, -1, config["hidden_size"]))
    biases = dict(bias=config["qkv_bias"], out_bias=True)
    return [
        Rule(f"{ours}/class_token", f"{embeddings}.cls_token", reshaped(width, width)),
        Rule(f"{ours}/position", f"{embeddings}.position_embeddings", positions),
        *dense(f"{ours}/patch_embedding", f"{embeddings}.patch_embeddings.projection", form=form),
        *norm(f"{layers}/self_norm", f"{layer}.layernorm_before"),
        *attention(f"{layers}/self_attention", f"{layer}.attention", names, **biases),
        *norm(f"{layers}/mlp_norm", f"{layer}.layernorm_after"),
        *dense(f"{layers}/mlp/up", f"{layer}.intermediate.dense"),
        *dense(f"{layers}/mlp/down", f"{layer}.output.dense"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}layernorm"),
        *(dense(f"{ours}/pooler", f"{theirs}pooler.dense") if config["has_pooler"] else []),
    ]


def settled(config: Config, shapes: Shapes) -> Config:
    """Whether there is a classifier and a pooler, which tensors tell better than config.json."""
    known = dict(config)
    if not known.get("architectures"):
        heads = any(name.startswith(("classifier.", "vit.")) for name in shapes)
        known["architectures"] = ["ViTForImageClassification" if heads else "ViTModel"]
    if classifies(known) or not any(name.startswith("pooler.") for name in shapes):
        known["has_pooler"] = False
    return known


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    if not classifies(config):
        return dict(vision=vision_fields(config))
    fields = vision_fields(dict(config) | dict(has_pooler=False))
    return dict(vision=fields | dict(classes=labels(config) or None))


def rules(config: Config) -> Rules:
    """The mapping table."""
    if not classifies(config):
        return vision_rules("vision", "", config)
    found = vision_rules("vision", "vit.", dict(config) | dict(has_pooler=False))
    return found + (dense("vision/head", "classifier") if labels(config) else [])


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture."""
    return {"image": picture(*sides(filled(config), "image_size")), "look": {}}, {"look": "encode"}


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """tokens, class token first, features and pooled, and a classifier's logits, which are features
    where it has no last layer (num_labels=0).
    """
    path, pixels = ("vision", "transformer", UNNORMED), nhwc(inputs["pixel_values"])
    visual, before = observed(apply, path, pixels, method="encode_image")
    found = {"tokens": visual.tokens, "tokens:unnormed": before, "image_tokens": visual.tokens}
    if not classified(apply):
        return found | dict.fromkeys(("pooled", "features", "logits"), visual.pooled)
    first = visual.tokens[:, 0]
    return found | {"logits": visual.pooled, "pooled": first, "features": first}


VIT = Family(
    model,
    rules,
    example,
    calls={"forward": forward},
    renames=RENAMES,
    ignored=(r"(vit\.)?embeddings\.mask_token",),
    settle=settled,
    classes=dict.fromkeys(CLASSIFIER, "num_labels"),
)
