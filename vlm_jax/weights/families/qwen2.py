"""Qwen2 (arXiv:2407.10671): `Qwen2ForCausalLM` folders; Qwen2.5 (2412.15115) has the same layers.

Other families read their language models with `fields` and `lm_rules`.
"""

from typing import Any

from vlm_jax.weights.calls import language, read_text
from vlm_jax.weights.families import llama
from vlm_jax.weights.family import Config, Family, language_example
from vlm_jax.weights.rules import Rules

DEFAULTS: dict[str, Any] = dict(
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=22016,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=32768,
    use_sliding_window=False,
    sliding_window=4096,
    max_window_layers=28,
    layer_types=None,
)
"""What a config.json that leaves a key out means by it; the rest is as for Llama."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there. Queries, keys and values always have biases."""
    return llama.DEFAULTS | DEFAULTS | dict(config) | dict(attention_bias=False, qkv_bias=True)


def fields(config: Config) -> dict[str, Any]:
    """The language model as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    given = llama.fields(config)
    ropes = dict.fromkeys(llama.LAYER_TYPES, given["ropes"][0])
    window = config["sliding_window"] if config["use_sliding_window"] else None
    attention = given["attention"] | dict(bias=True)
    return given | dict(attention=attention) | llama.kinds(layer_types(config), window, ropes)


def layer_types(config: Config) -> list[str]:
    """The kind of every layer; without a list, those from max_window_layers on look back less."""
    if config["layer_types"] is not None:
        return list(config["layer_types"])
    windowed = config["use_sliding_window"] and config["sliding_window"] is not None
    first = config["max_window_layers"] if windowed else config["num_hidden_layers"]
    layers = range(config["num_hidden_layers"])
    return ["sliding_attention" if n >= first else "full_attention" for n in layers]


def lm_rules(config: Config, ours: str = "decoder", body: str = "model", head: str = "") -> Rules:
    """The whole language model. body: their name of it; head: their prefix of lm_head."""
    return llama.lm_rules(filled(config), ours, body, head)


QWEN2 = Family(
    lambda config: dict(decoder=fields(config)),
    lm_rules,
    language_example,
    calls=language(read_text),
    ignored=lambda config: (
        r".*\.rotary_emb\.inv_freq",
        *((r"lm_head\.weight",) if filled(config)["tie_word_embeddings"] else ()),
    ),
)
