"""OPT (arXiv:2205.01068): `OPTForCausalLM` folders. Its positions start at the third row of their
table.
"""

from typing import Any

from vlm_jax.weights.calls import language, read_text
from vlm_jax.weights.family import Config, Family, activation, language_example, require
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm

DEFAULTS: dict[str, Any] = dict(
    vocab_size=50272,
    hidden_size=768,
    num_hidden_layers=12,
    ffn_dim=3072,
    max_position_embeddings=2048,
    do_layer_norm_before=True,
    word_embed_proj_dim=None,
    num_attention_heads=12,
    activation_function="relu",
    enable_bias=True,
    layer_norm_elementwise_affine=True,
    _remove_final_layer_norm=False,
    tie_word_embeddings=True,
)
"""What a config.json that leaves a key out means by it."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    config = DEFAULTS | dict(config)
    return config | dict(word_embed_proj_dim=config["word_embed_proj_dim"] or config["hidden_size"])


def fields(config: Config) -> dict[str, Any]:
    """The language model as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    require(config, word_embed_proj_dim=config["hidden_size"])
    first = config["do_layer_norm_before"]
    return dict(
        name="causal_lm",
        vocab=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["ffn_dim"],
        max_length=config["max_position_embeddings"],
        bidirectional="none",
        position_offset=2,
        tied=config["tie_word_embeddings"],
        logits_bias=False,
        norm="layer" if config["layer_norm_elementwise_affine"] else "layer_plain",
        norm_first=first,
        final_norm=first and not config["_remove_final_layer_norm"],
        epsilon=1e-5,
        activation=activation(config, "activation_function"),
        bias=config["enable_bias"],
    )


def lm_rules(config: Config, ours: str = "decoder", prefix: str = "") -> Rules:
    """The whole language model. prefix: of all their names."""
    config = filled(config)
    body = f"{prefix}model.decoder"
    layers, theirs = f"{ours}/transformer/layers", f"{body}.layers"
    biased = config["enable_bias"]
    rules = [
        Rule(f"{ours}/embed/token/embedding", f"{body}.embed_tokens.weight"),
        Rule(f"{ours}/embed/position", f"{body}.embed_positions.weight"),
        *norm(f"{layers}/self_norm", f"{theirs}.{{}}.self_attn_layer_norm"),
        *attention(f"{layers}/self_attention", f"{theirs}.{{}}.self_attn", bias=biased),
        *norm(f"{layers}/mlp_norm", f"{theirs}.{{}}.final_layer_norm"),
        *dense(f"{layers}/mlp/up", f"{theirs}.{{}}.fc1", biased),
        *dense(f"{layers}/mlp/down", f"{theirs}.{{}}.fc2", biased),
        *norm(f"{ours}/transformer/final_norm", f"{body}.final_layer_norm"),
    ]
    if not config["tie_word_embeddings"]:
        rules += dense(f"{ours}/logits", f"{prefix}lm_head", bias=False)
    return rules


OPT = Family(
    lambda config: dict(decoder=fields(config)),
    lm_rules,
    language_example,
    calls=language(read_text),
    renames=((r"^decoder\.", "model.decoder."),),
    ignored=lambda config: (r"lm_head\.weight",) if filled(config)["tie_word_embeddings"] else (),
)
