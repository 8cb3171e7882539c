"""Llama (arXiv:2302.13971) and what shares its layers: `LlamaForCausalLM`, SmolLM2, Mistral, Qwen2.

Other families read their language models with `fields` and `layer_rules`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_jax.weights.calls import language, read_text
from vlm_jax.weights.family import (
    Config,
    Family,
    activation,
    language_example,
    one_of,
    require,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm

DEFAULTS: dict[str, Any] = dict(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=None,
    head_dim=None,
    hidden_act="silu",
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
)
"""What a config.json that leaves a key out means by it."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    return DEFAULTS | dict(config)


def fields(config: Config) -> dict[str, Any]:
    """The language model as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    require(config, pretraining_tp=1)
    heads = config["num_attention_heads"]
    head_dim = config["head_dim"] or config["hidden_size"] // heads
    biased = config["attention_bias"]
    return dict(
        name="causal_lm",
        vocab=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        mlp_width=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        bidirectional="none",
        positions="none",
        ropes=(rope(config),),
        tied=config["tie_word_embeddings"],
        logits_bias=False,
        norm="rms",
        epsilon=config["rms_norm_eps"],
        activation=activation(config),
        attention=dict(
            kv_heads=config["num_key_value_heads"] or heads,
            head_dim=head_dim,
            bias=biased,
            out_bias=biased,
        ),
        mlp=dict(gated=True, bias=config["mlp_bias"]),
    )


def rope(config: Config) -> dict[str, Any]:
    """Rotary positions as keyword arguments of `layers.rotary.frequencies`.

    Folders keep them as rope_theta and rope_scaling, or together as rope_parameters.
    """
    given = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    theta = given.get("rope_theta", config.get("rope_theta", 10_000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return dict(theta=float(theta))
    if kind == "linear":
        return dict(theta=float(theta), factor=float(given["factor"]))
    if kind == "llama3":
        return dict(
            theta=float(theta),
            factor=float(given["factor"]),
            low_factor=float(given["low_freq_factor"]),
            high_factor=float(given["high_freq_factor"]),
            original_length=int(given["original_max_position_embeddings"]),
        )
    raise WeightsError(
        f"config.json: rope_type={kind!r} is not supported; known: default, linear, llama3"
    )


LAYER_TYPES: tuple[str, ...] = ("full_attention", "sliding_attention")
"""Kinds of layers by their published names: those that look all the way back come first."""


def kinds(types: Sequence[str], window: int | None, ropes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a CausalLM for layers of these kinds. ropes: rotary positions of each kind.

    WeightsError for a kind that is not here.
    """
    for kind in types:
        one_of(dict(layer_types=kind), "layer_types", dict.fromkeys(LAYER_TYPES))
    found = [kind for kind in LAYER_TYPES if kind in types]
    windows = {LAYER_TYPES[0]: None, LAYER_TYPES[1]: window}
    alike = len(found) == 1 or len({str(ropes[kind]) for kind in found}) == 1
    return dict(
        pattern=tuple(found.index(kind) for kind in types) if len(found) > 1 else (),
        windows=tuple(windows[kind] for kind in found),
        ropes=tuple(ropes[kind] for kind in (found[:1] if alike else found)),
    )


def lm_rules(
    config: Config,
    ours: str = "decoder",
    body: str = "model",
    head: str = "",
    layers: Callable[..., Rules] | None = None,
) -> Rules:
    """The whole language model. body: their name of it; head: their prefix of lm_head. layers: what
    to call for the layers instead of `layer_rules`.
    """
    config = filled(config)
    rules = [
        Rule(f"{ours}/embed/token/embedding", f"{body}.embed_tokens.weight"),
        *(layers or layer_rules)(config, f"{ours}/transformer/layers", f"{body}.layers"),
        *norm(f"{ours}/transformer/final_norm", f"{body}.norm", kind="rms"),
    ]
    if not config["tie_word_embeddings"]:
        rules += dense(f"{ours}/logits", f"{head}lm_head", bias=False)
    return rules


def layer_rules(config: Config, ours: str, theirs: str) -> Rules:
    """The layers. attention_bias, qkv_bias: whether all, or the first three, layers have biases."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    biased = config.get("attention_bias", False)
    each = dict(bias=config.get("qkv_bias", biased), out_bias=biased)
    mlp_bias = config.get("mlp_bias", False)
    return [
        *norm(f"{ours}/self_norm", f"{theirs}.{{}}.input_layernorm", kind="rms"),
        *attention(f"{ours}/self_attention", f"{theirs}.{{}}.self_attn", names, **each),
        *norm(f"{ours}/mlp_norm", f"{theirs}.{{}}.post_attention_layernorm", kind="rms"),
        *dense(f"{ours}/mlp/gate", f"{theirs}.{{}}.mlp.gate_proj", mlp_bias),
        *dense(f"{ours}/mlp/up", f"{theirs}.{{}}.mlp.up_proj", mlp_bias),
        *dense(f"{ours}/mlp/down", f"{theirs}.{{}}.mlp.down_proj", mlp_bias),
    ]


LLAMA = Family(
    lambda config: dict(decoder=fields(config)),
    lm_rules,
    language_example,
    calls=language(read_text),
    ignored=lambda config: (
        r".*\.rotary_emb\.inv_freq",
        *((r"lm_head\.weight",) if filled(config)["tie_word_embeddings"] else ()),
    ),
)
