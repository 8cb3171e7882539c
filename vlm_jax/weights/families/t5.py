"""T5 (arXiv:1910.10683), T5 1.1 and Flan-T5 (arXiv:2210.11416): `T5ForConditionalGeneration`
folders.

Other families read their language models with `text_fields`, `decoder_fields` and `lm_rules`.
"""

from collections.abc import Container
from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, language, text_inputs
from vlm_jax.weights.family import TWO_TOKENS, TWO_WORDS, Call, Config, Family, activation
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.generation import first_token
from vlm_jax.weights.rules import Rule, Rules, attention, dense, norm

DEFAULTS: dict[str, Any] = dict(
    vocab_size=32128,
    d_model=512,
    d_kv=64,
    d_ff=2048,
    num_layers=6,
    num_decoder_layers=None,
    num_heads=8,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    layer_norm_epsilon=1e-6,
    feed_forward_proj="relu",
    tie_word_embeddings=True,
)
"""What a config.json that leaves a key out means by it."""

ANY_LENGTH = 2**20
"""Relative positions do not limit a text."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there.

    scale_decoder_outputs is whether states are scaled before the output layer, as version 1 does;
    configs that do not say mean that it is so unless the output layer is another than the
    embedding. That, in turn, only the tensors tell for sure: see `settle`.
    """
    config = DEFAULTS | dict(config)
    gated, _, name = config["feed_forward_proj"].rpartition("-")
    if gated not in ("", "gated"):
        raise WeightsError(
            f"config.json: feed_forward_proj={config['feed_forward_proj']!r} is not supported; it "
            'must be the name of an activation, or "gated-" and such a name'
        )
    known = dict(
        is_gated_act=gated == "gated",
        dense_act_fn="gelu_new" if config["feed_forward_proj"] == "gated-gelu" else name,
        scale_decoder_outputs=config["tie_word_embeddings"],
    )
    config["num_decoder_layers"] = config["num_decoder_layers"] or config["num_layers"]
    return known | config


def stack_fields(config: Config) -> dict[str, Any]:
    """What encoder and decoder have in common. config: a filled one."""
    relative = dict(
        buckets=config["relative_attention_num_buckets"],
        distance=config["relative_attention_max_distance"],
    )
    return dict(
        vocab=config["vocab_size"],
        width=config["d_model"],
        heads=config["num_heads"],
        mlp_width=config["d_ff"],
        max_length=ANY_LENGTH,
        positions="none",
        relative=relative,
        norm="rms",
        epsilon=config["layer_norm_epsilon"],
        activation=activation(config, "dense_act_fn"),
        bias=False,
        attention=dict(head_dim=config["d_kv"], scale=1.0),
        mlp=dict(gated=config["is_gated_act"]),
    )


def text_fields(config: Config) -> dict[str, Any]:
    """The encoder as fields of `encoders.text_transformer.TransformerEncoder`."""
    config = filled(config)
    own = dict(name="transformer", layers=config["num_layers"], pooling="none")
    return own | stack_fields(config)


def decoder_fields(config: Config) -> dict[str, Any]:
    """The decoder as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    own = dict(
        name="causal_lm",
        layers=config["num_decoder_layers"],
        memory="attend",
        bidirectional="none",
        tied=config["tie_word_embeddings"],
        logits_bias=False,
        logits_scale=config["d_model"] ** -0.5 if config["scale_decoder_outputs"] else 1.0,
    )
    return own | stack_fields(config)


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, decoder = text_fields(config), decoder_fields(config)
    return dict(text=text, decoder=decoder, shared_words=True)


def lm_rules(config: Config, prefix: str = "") -> Rules:
    """Encoder and decoder. prefix: of all their names."""
    config = filled(config)
    encoder, decoder = f"{prefix}encoder", f"{prefix}decoder"
    first = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rules = [
        Rule("text/embedding/token/embedding", f"{prefix}shared.weight"),
        Rule("text/relative/table", f"{encoder}.{first}"),
        *layer_rules(config, "text/transformer/layers", f"{encoder}.block", ("self", "mlp")),
        *norm("text/transformer/final_norm", f"{encoder}.final_layer_norm", kind="rms"),
        Rule("decoder/relative/table", f"{decoder}.{first}"),
        *layer_rules(
            config, "decoder/transformer/layers", f"{decoder}.block", ("self", "cross", "mlp")
        ),
        *norm("decoder/transformer/final_norm", f"{decoder}.final_layer_norm", kind="rms"),
    ]
    if not config["tie_word_embeddings"]:
        rules += dense("decoder/logits", f"{prefix}lm_head", bias=False)
    return rules


def layer_rules(config: Config, ours: str, theirs: str, parts: tuple[str, ...]) -> Rules:
    """The layers of one stack. parts: of ours, which theirs numbers."""
    rules: Rules = []
    for number, part in enumerate(parts):
        layer = f"{theirs}.{{}}.layer.{number}"
        rules += norm(f"{ours}/{part}_norm", f"{layer}.layer_norm", kind="rms")
        if part == "mlp":
            rules += mlp_rules(config, f"{ours}/mlp", f"{layer}.DenseReluDense")
            continue
        name = {"self": "SelfAttention", "cross": "EncDecAttention"}[part]
        mine = f"{ours}/{part}_attention"
        rules += attention(mine, f"{layer}.{name}", ("q", "k", "v", "o"), bias=False)
    return rules


def mlp_rules(config: Config, ours: str, theirs: str) -> Rules:
    """The MLP, gated or not."""
    down = dense(f"{ours}/down", f"{theirs}.wo", bias=False)
    if not config["is_gated_act"]:
        return [*dense(f"{ours}/up", f"{theirs}.wi", bias=False), *down]
    gate, up = (
        dense(f"{ours}/{a}", f"{theirs}.{b}", False) for a, b in (("gate", "wi_0"), ("up", "wi_1"))
    )
    return [*gate, *up, *down]


def settle(config: Config, names: Container[str], prefix: str = "") -> Config:
    """Whether the output layer is the embedding: published Flan-T5 has one of its own, the same
    model made afresh by the reference has not, and their config.json need not differ.
    """
    scaled = filled(config)["scale_decoder_outputs"]
    tied = f"{prefix}lm_head.weight" not in names
    return dict(config) | dict(tie_word_embeddings=tied, scale_decoder_outputs=scaled)


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """Two words to read and two to write."""
    return {"words": TWO_WORDS | TWO_TOKENS}, {"words": "generate"}


def decoder_tokens(inputs: Inputs) -> dict[str, Any]:
    """decoder_input_ids and decoder_attention_mask as what a decoder of ours reads."""
    ids = inputs["decoder_input_ids"]
    mask = inputs.get("decoder_attention_mask")
    real = jnp.ones(ids.shape, bool) if mask is None else mask != 0
    return {"tokens": ids, "tokens_mask": real, "prefix": jnp.zeros(len(ids), jnp.int32)}


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """The encoder's states, and the decoder's tokens."""
    memory = apply(None, text_inputs(inputs), method="read")
    return memory, decoder_tokens(inputs) | {"text_tokens": memory.tokens}


def calls(read: Any) -> dict[str, Call]:
    """forward and generate of a model whose text is written by a decoder apart."""
    usual = language(read)

    def generate(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
        if "decoder_input_ids" not in inputs:
            rows = len(next(iter(inputs.values())))
            start = jnp.full((rows, 1), first_token(flags), jnp.int32)
            inputs = {**inputs, "decoder_input_ids": start}
        return usual["generate"](apply, inputs, flags)

    return {"forward": usual["forward"], "generate": generate}


IGNORED = (
    r".*(encoder|decoder)\.embed_tokens\.weight",
    r".*EncDecAttention\.relative_attention_bias\.weight",
)
"""Copies of the shared embedding, and a table that old folders hold and nothing reads."""

T5 = Family(
    model, rules=lm_rules, example=example, calls=calls(read), ignored=IGNORED, settle=settle
)
