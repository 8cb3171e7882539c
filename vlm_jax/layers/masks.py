"""Who may attend to whom. True means "may attend"; rows are queries, columns are keys."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def padding_mask(real: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """Every query sees the real keys only.

    real = 1 1 0, for each query:
        1 1 0
    """
    return real[:, None, None, :]


def causal_mask(length: int) -> Bool[Array, "1 1 T T"]:
    """Position t sees positions 0 ... t.

    length = 3:
        1 0 0
        1 1 0
        1 1 1
    """
    position = jnp.arange(length)
    return (position[None, :] <= position[:, None])[None, None]


def prefix_lm_mask(real: Bool[Array, "B T"], prefix: Int[Array, " B"]) -> Bool[Array, "B 1 T T"]:
    """The prefix sees the whole prefix; what follows is causal; padding is never seen.

    prefix = 2, real = 1 1 1 0:
        1 1 0 0
        1 1 0 0
        1 1 1 0
        1 1 1 0
    PaliGemma (arXiv:2407.07726), section 3.1; the prefix LM of T5 (arXiv:1910.10683), figure 4.
    """
    in_prefix = jnp.arange(real.shape[1])[None] < prefix[:, None]  # [B, T]
    visible = causal_mask(real.shape[1]) | in_prefix[:, None, None, :]  # [B, 1, T, T]
    return visible & padding_mask(real)


def cache_mask(
    slot: Int[Array, " B"], length: int, real: Bool[Array, "B M"], *, bidirectional: bool
) -> Bool[Array, "B 1 T M"]:
    """What new tokens, written to slots slot ... slot + length - 1, see among the M cache slots.

    slot = 2, length = 2, real = 1 0 1 1 - (slot 1 held padding of a ragged prompt):
        1 0 1 0 -
        1 0 1 1 -
    bidirectional=True lets the new tokens see each other, as a prompt of a prefix LM does.
    """
    slots = jnp.arange(real.shape[1])[None, None]  # [1, 1, M]
    last = slot[:, None, None] + jnp.arange(length)[None, :, None]  # [B, T, 1]
    if bidirectional:
        last = jnp.broadcast_to(slot[:, None, None] + length - 1, last.shape)
    return ((slots <= last) & real[:, None, :])[:, None]


def zero_padding(x: Float[Array, "B S D"], real: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
    """X with zeros where a token is padding: a mask keeps padding out of a softmax, but not its
    NaNs,
    and when no key is real at all the softmax spreads over the padding.
    """
    return jnp.where(real[..., None], x, 0)
