"""What all of BLIP-2's classes see with (arXiv:2301.12597): the EVA tower and the Q-Former."""

from typing import Any

from vlm_jax.weights.family import Config, activation
from vlm_jax.weights.rules import (
    Rule,
    Rules,
    attention,
    dense,
    for_groups,
    fused_attention,
    norm,
    patches,
    reshaped,
)

VISION: dict[str, Any] = dict(
    hidden_size=1408,
    intermediate_size=6144,
    num_hidden_layers=39,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    qkv_bias=True,
)
QFORMER: dict[str, Any] = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    cross_attention_frequency=2,
    use_qformer_text_input=False,
    vocab_size=30522,
    max_position_embeddings=512,
)
"""What a config.json that leaves a key out means by it."""


def vision_fields(section: Config) -> dict[str, Any]:
    """The EVA tower."""
    return dict(
        name="vit",
        patch=section["patch_size"],
        image_size=section["image_size"],
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=activation(section),
        epsilon=section["layer_norm_eps"],
        attention=dict(bias=section["qkv_bias"]),
        pooling="none",
        keep_class_token=True,
    )


def qformer_fields(config: Config, section: Config) -> dict[str, Any]:
    """The Q-Former as fields of `connectors.qformer.QFormer`."""
    return dict(
        name="qformer",
        queries=config.get("num_query_tokens", 32),
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        cross_every=section["cross_attention_frequency"],
        reads_text=section["use_qformer_text_input"],
        activation=activation(section),
        epsilon=section["layer_norm_eps"],
    )


def vision_rules(section: Config, ours: str = "vision", theirs: str = "vision_model") -> Rules:
    """The EVA tower, whose query, key and value are one tensor."""
    embeddings, layers = f"{theirs}.embeddings", f"{ours}/transformer/layers"
    each = f"{theirs}.encoder.layers.{{}}"
    qkv = f"{each}.self_attn.qkv"
    fused = fused_attention(
        f"{layers}/self_attention",
        f"{qkv}.weight",
        f"{qkv}.bias",
        f"{each}.self_attn.projection",
    )
    if not section["qkv_bias"]:
        fused = [rule for rule in fused if rule.theirs != f"{qkv}.bias"]
    table = reshaped((-1, section["hidden_size"]), (1, -1, section["hidden_size"]))
    return [
        *dense(
            f"{ours}/patch_embedding",
            f"{embeddings}.patch_embedding",
            form=patches(section["patch_size"]),
        ),
        Rule(f"{ours}/class_token", f"{embeddings}.class_embedding"),
        Rule(f"{ours}/position", f"{embeddings}.position_embedding", table),
        *norm(f"{layers}/self_norm", f"{each}.layer_norm1"),
        *fused,
        *norm(f"{layers}/mlp_norm", f"{each}.layer_norm2"),
        *dense(f"{layers}/mlp/up", f"{each}.mlp.fc1"),
        *dense(f"{layers}/mlp/down", f"{each}.mlp.fc2"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.post_layernorm"),
    ]


def qformer_rules(section: Config, ours: str, theirs: str) -> Rules:
    """The Q-Former but for its queries."""
    each = f"{theirs}.encoder.layer.{{}}"
    names = ("attention.query", "attention.key", "attention.value", "output.dense")

    def usual(layer: str) -> Rules:
        return [
            *attention(f"{layer}/self_attention", f"{each}.attention", names),
            *norm(f"{layer}/self_norm", f"{each}.attention.output.LayerNorm"),
            *mlp(layer, "mlp", "_query"),
            *(mlp(layer, "rest_mlp", "") if section["use_qformer_text_input"] else []),
        ]

    def mlp(layer: str, part: str, kind: str) -> Rules:
        return [
            *dense(f"{layer}/{part}/up", f"{each}.intermediate{kind}.dense"),
            *dense(f"{layer}/{part}/down", f"{each}.output{kind}.dense"),
            *norm(f"{layer}/{part}_norm", f"{each}.output{kind}.LayerNorm"),
        ]

    def cross(layer: str) -> Rules:
        return [
            *attention(f"{layer}/cross_attention", f"{each}.crossattention", names),
            *norm(f"{layer}/cross_norm", f"{each}.crossattention.output.LayerNorm"),
        ]

    size = (section["num_hidden_layers"], section["cross_attention_frequency"])
    return [
        *norm(f"{ours}/queries_norm", f"{theirs}.layernorm"),
        *for_groups(usual, cross, f"{ours}/transformer", *size),
    ]
