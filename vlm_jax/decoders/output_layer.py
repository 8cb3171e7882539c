"""What stands between a language model's last state and its words: scores, now or later."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.embed import TokenEmbedding
from vlm_jax.layers.norms import make_norm
from vlm_jax.losses import Unembedding


def output_layer(
    module: Any,
    x: Float[Array, "B T D"],
    embed: TokenEmbedding,
    words: Float[Array, "own D"] | None,
    later: bool = False,
) -> Float[Array, "B T V"] | Unembedding:
    """Logits in float32, or, if `later`, what they are to be computed from.

    module: a `CausalLM` within its call, whose parameters these are. words: another module's token
    vectors in place of embed's.
    """
    if module.logits_transform:
        x = nn.Dense(module.width, dtype=module.dtype, name="logits_transform")(x)
        norm = {"epsilon": module.epsilon, "dtype": module.dtype, "name": "logits_norm"}
        x = make_norm(module.norm, **norm)(ACTIVATIONS[module.activation](x))
    x = x if module.logits_scale == 1.0 else x * module.logits_scale
    layer = (_tied if module.tied else _own)(module, x, embed, words, later)
    if later:
        return layer
    if module.logits_softcap is not None:
        layer = module.logits_softcap * jnp.tanh(layer / module.logits_softcap)
    return layer


def at(x: Float[Array, "B T D"], after: Int[Array, " B"] | None) -> Float[Array, "B _ D"]:
    """The state after one token of each row, [B, 1, D]; after all of them if none is named."""
    return x if after is None else jnp.take_along_axis(x, after[:, None, None], axis=1)


def _tied(module: Any, x: Array, embed: TokenEmbedding, words: Array | None, later: bool) -> Any:
    """The words' vectors are also the output layer's."""
    bias = None
    if module.logits_bias:
        bias = module.param("logits_bias", nn.initializers.zeros_init(), (module.vocab,))
    if later:
        table = embed.table(words)
        table = table[:-1] if module.parallel else table
        return Unembedding(x.astype(module.dtype), table, bias, module.logits_softcap)
    logits = embed.attend(x, words).astype(jnp.float32)
    logits = logits[..., :-1] if module.parallel else logits
    return logits if bias is None else logits + bias[None, None]


def _own(module: Any, x: Array, _: Any, __: Any, later: bool) -> Any:
    """A dense layer, and one more for the words added to the vocabulary."""
    biased = module.logits_bias is None or module.logits_bias
    dense = partial(nn.Dense, use_bias=biased, dtype=module.dtype)
    parts = [dense(module.vocab, name="logits")]
    if module.extra_vocab:
        parts.append(dense(module.extra_vocab, name="extra_logits"))
    if not later:
        return jnp.concatenate([part(x).astype(jnp.float32) for part in parts], axis=-1)
    if module.is_initializing():
        for part in parts:
            part(x)
    found = [part.variables["params"] for part in parts]
    kernel = jnp.concatenate([part["kernel"] for part in found], axis=1)
    bias = jnp.concatenate([part["bias"] for part in found]) if biased else None
    return Unembedding(x.astype(module.dtype), kernel.T, bias, module.logits_softcap)
