"""GPT-2 (Radford et al., 2019): `GPT2LMHeadModel` folders, also with the cross-attention layers
through which SmallCap (arXiv:2209.15323) shows it an image.

Its matrices are (in, out), and query, key and value lie side by side in one of them.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language
from vlm_jax.weights.family import TWO_TOKENS, Config, Family, activation, require
from vlm_jax.weights.rules import AS_IT_IS, Rule, Rules, dense, fused_attention, norm

DEFAULTS: dict[str, Any] = dict(
    vocab_size=50257,
    n_positions=1024,
    n_embd=768,
    n_layer=12,
    n_head=12,
    n_inner=None,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
    scale_attn_weights=True,
    add_cross_attention=False,
    tie_word_embeddings=True,
)
"""What a config.json that leaves a key out means by it."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    return DEFAULTS | dict(config)


def fields(config: Config) -> dict[str, Any]:
    """The language model as fields of `decoders.causal_lm.CausalLM`."""
    config = filled(config)
    require(config, scale_attn_by_inverse_layer_idx=False)
    crossed = config["add_cross_attention"]
    return dict(
        name="causal_lm",
        vocab=config["vocab_size"],
        width=config["n_embd"],
        layers=config["n_layer"],
        heads=config["n_head"],
        mlp_width=config["n_inner"] or 4 * config["n_embd"],
        max_length=config["n_positions"],
        memory="attend" if crossed else "prepend",
        bidirectional="none",
        tied=config["tie_word_embeddings"],
        logits_bias=False,
        epsilon=config["layer_norm_epsilon"],
        activation=activation(config, "activation_function"),
        attention={} if config["scale_attn_weights"] else dict(scale=1.0),
    )


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model; with cross-attention, image features come from elsewhere."""
    crossed = filled(config)["add_cross_attention"]
    vision = dict(vision=dict(name="precomputed")) if crossed else {}
    return vision | dict(decoder=fields(config))


def rules(
    config: Config, ours: str = "decoder", body: str = "transformer", head: str = ""
) -> Rules:
    """The whole language model. body: their name of it; head: their prefix of lm_head."""
    config = filled(config)
    layers = f"{ours}/transformer/layers"
    table = [
        Rule(f"{ours}/embed/token/embedding", f"{body}.wte.weight"),
        Rule(f"{ours}/embed/position", f"{body}.wpe.weight"),
        *layer_rules(layers, f"{body}.h"),
        *norm(f"{ours}/transformer/final_norm", f"{body}.ln_f"),
    ]
    if config["add_cross_attention"]:
        table += cross_rules(layers, f"{body}.h")
    if not config["tie_word_embeddings"]:
        table += dense(f"{ours}/logits", f"{head}lm_head", bias=False)
    return table


def layer_rules(ours: str, theirs: str) -> Rules:
    """Self-attention and MLP of the layers."""
    attention, out = f"{theirs}.{{}}.attn.c_attn", f"{theirs}.{{}}.attn.c_proj"
    names = (f"{attention}.weight", f"{attention}.bias", out)
    return [
        *norm(f"{ours}/self_norm", f"{theirs}.{{}}.ln_1"),
        *fused_attention(f"{ours}/self_attention", *names, form=AS_IT_IS, axis=1),
        *norm(f"{ours}/mlp_norm", f"{theirs}.{{}}.ln_2"),
        *dense(f"{ours}/mlp/up", f"{theirs}.{{}}.mlp.c_fc", form=AS_IT_IS),
        *dense(f"{ours}/mlp/down", f"{theirs}.{{}}.mlp.c_proj", form=AS_IT_IS),
    ]


def cross_rules(ours: str, theirs: str) -> Rules:
    """Cross-attention of the layers: a matrix for the query, one for key and value."""
    mine, attention = f"{ours}/cross_attention", f"{theirs}.{{}}.crossattention"
    both = lambda kind: (f"{mine}/key/{kind}", f"{mine}/value/{kind}")
    return [
        *norm(f"{ours}/cross_norm", f"{theirs}.{{}}.ln_cross_attn"),
        *dense(f"{mine}/query", f"{attention}.q_attn", form=AS_IT_IS),
        Rule(both("kernel"), f"{attention}.c_attn.weight", axis=1),
        Rule(both("bias"), f"{attention}.c_attn.bias"),
        *dense(f"{mine}/out", f"{attention}.c_proj", form=AS_IT_IS),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """Two words and, with cross-attention, one image feature."""
    config = filled(config)
    crossed = config["add_cross_attention"]
    image = {"image": np.zeros((1, 1, config["n_embd"]), np.float32)} if crossed else {}
    return image | {"words": TWO_TOKENS}, {"words": "generate"}


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """The text, and encoder_hidden_states with encoder_attention_mask where they are given.
    ValueError for token_type_ids.
    """
    if "token_type_ids" in inputs:
        raise ValueError("token_type_ids, which are words to the reference, are not supported")
    given = decoder_inputs(inputs)
    if "encoder_hidden_states" not in inputs:
        return None, given
    states = inputs["encoder_hidden_states"]
    mask = inputs.get("encoder_attention_mask")
    real = jnp.ones(states.shape[:2], bool) if mask is None else mask != 0
    return Features(states, real), given


GPT2 = Family(
    model,
    rules,
    example,
    calls=language(read, padding_counts=True),
    renames=((r"^(?!transformer\.|lm_head\.)", "transformer."),),
    ignored=lambda config: (
        r".*\.(attn|crossattention)\.(masked_)?bias",
        *((r"lm_head\.weight",) if filled(config)["tie_word_embeddings"] else ()),
    ),
)
