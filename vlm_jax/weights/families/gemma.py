"""Gemma 1, 2 and 3 (arXiv:2403.08295, 2408.00118, 2503.19786): `GemmaForCausalLM`,
`Gemma2ForCausalLM` and `Gemma3ForCausalLM` folders.

Other families read their language models with `fields` and `lm_rules`.
"""

from collections.abc import Mapping
from typing import Any

from vlm_jax.weights.calls import language, read_text
from vlm_jax.weights.families import llama
from vlm_jax.weights.family import Config, Family, activation, language_example, one_of
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rules, attention, dense, norm

SHARED: dict[str, Any] = dict(
    rms_norm_eps=1e-6,
    head_dim=256,
    tie_word_embeddings=True,
    attention_bias=False,
    use_bidirectional_attention=None,
)
SMALL_2B: dict[str, Any] = SHARED | dict(
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    hidden_activation="gelu_pytorch_tanh",
    query_pre_attn_scalar=256,
    sliding_window=4096,
    layer_types=None,
)
DEFAULTS: dict[str, dict[str, Any]] = dict(
    gemma=SHARED
    | dict(
        vocab_size=256000,
        hidden_size=3072,
        intermediate_size=24576,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=8192,
    ),
    gemma2=SMALL_2B
    | dict(
        vocab_size=256000,
        max_position_embeddings=8192,
        final_logit_softcapping=30.0,
        attn_logit_softcapping=50.0,
    ),
    gemma3_text=SMALL_2B
    | dict(
        vocab_size=262208,
        max_position_embeddings=131072,
        sliding_window_pattern=6,
        final_logit_softcapping=None,
    ),
)
"""What a config.json of each model type that leaves a key out means by it."""


def filled(config: Config) -> dict[str, Any]:
    """The config of a language model with every key there, model_type included (default: gemma)."""
    config = dict(model_type="gemma") | dict(config)
    return one_of(config, "model_type", DEFAULTS) | config


def fields(config: Config) -> dict[str, Any]:
    """The language model as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    kind, heads, biased = (
        config[key] for key in ("model_type", "num_attention_heads", "attention_bias")
    )
    if config["use_bidirectional_attention"]:
        raise WeightsError("config.json: use_bidirectional_attention=True is not supported")
    options = dict(
        kv_heads=config["num_key_value_heads"] or heads,
        head_dim=config["head_dim"],
        bias=biased,
        out_bias=biased,
    )
    shared = dict(
        name="causal_lm",
        vocab=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        mlp_width=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        bidirectional="none",
        positions="none",
        embedding_scaled=True,
        tied=config["tie_word_embeddings"],
        logits_bias=False,
        norm="rms_offset",
        epsilon=config["rms_norm_eps"],
        mlp=dict(gated=True, bias=False),
    )
    if kind == "gemma":
        # The first releases say "gelu" and mean its tanh form.
        exact = config["hidden_act"] == "gelu"
        name = "gelu_tanh" if exact else activation(config)
        return shared | dict(ropes=(llama.rope(config),), activation=name, attention=options)
    options["scale"] = float(config["query_pre_attn_scalar"]) ** -0.5
    # Gemma 3 took QK-norm in place of the cap on the products: its reference reads none.
    options |= (
        dict(qk_norm="rms_offset")
        if kind == "gemma3_text"
        else dict(softcap=config["attn_logit_softcapping"])
    )
    return shared | dict(
        activation=activation(config, "hidden_activation"),
        attention=options,
        sandwich=True,
        logits_softcap=config["final_logit_softcapping"],
        **llama.kinds(layer_types(config), config["sliding_window"], ropes(config)),
    )


def layer_types(config: Config) -> list[str]:
    """The kind of every layer; without a list, each n-th one is global (Gemma 2: second)."""
    if config["layer_types"] is not None:
        return list(config["layer_types"])
    every = config.get("sliding_window_pattern", 2)
    layers = range(1, config["num_hidden_layers"] + 1)
    return ["full_attention" if n % every == 0 else "sliding_attention" for n in layers]


def ropes(config: Config) -> Mapping[str, dict[str, Any]]:
    """The rotary positions of each kind of layer; Gemma 3 has two, written in several ways."""
    if config["model_type"] != "gemma3_text":
        return dict.fromkeys(llama.LAYER_TYPES, llama.rope(config))
    given = dict(config.get("rope_parameters") or {})
    bases = dict(
        full_attention=config.get("rope_theta", 1_000_000.0),
        sliding_attention=config.get("rope_local_base_freq", 10_000.0),
    )
    found = {
        kind: dict(rope_theta=base) | dict(given.get(kind) or {}) for kind, base in bases.items()
    }
    found["full_attention"] |= dict(config.get("rope_scaling") or {})
    return {kind: llama.rope(dict(rope_parameters=rope)) for kind, rope in found.items()}


def lm_rules(config: Config, ours: str = "decoder", body: str = "model", head: str = "") -> Rules:
    """The whole language model. body: their name of it; head: their prefix of lm_head."""
    return llama.lm_rules(filled(config), ours, body, head, layer_rules)


def layer_rules(config: Config, ours: str, theirs: str) -> Rules:
    """The layers, which from Gemma 2 on also normalise what each part adds."""
    if config["model_type"] == "gemma":
        return llama.layer_rules(config, ours, theirs)
    names, theirs = ("q_proj", "k_proj", "v_proj", "o_proj"), f"{theirs}.{{}}"
    norms = dict(
        self_norm="input_layernorm",
        self_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    )
    if config["model_type"] == "gemma3_text":
        norms |= {f"self_attention/{x}_norm": f"self_attn.{x[0]}_norm" for x in ("query", "key")}
    biased = config["attention_bias"]
    return [
        *(rule for a, b in norms.items() for rule in norm(f"{ours}/{a}", f"{theirs}.{b}", False)),
        *attention(f"{ours}/self_attention", f"{theirs}.self_attn", names, biased),
        *(
            rule
            for part in ("gate", "up", "down")
            for rule in dense(f"{ours}/mlp/{part}", f"{theirs}.mlp.{part}_proj", False)
        ),
    ]


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = filled(config)["tie_word_embeddings"]
    return (r".*\.rotary_emb\.inv_freq", *((r"lm_head\.weight",) if tied else ()))


GEMMA = Family(
    lambda config: dict(decoder=fields(config)),
    lm_rules,
    language_example,
    calls=language(read_text),
    ignored=ignored,
)
