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


def block_mask(queries: Int[Array, "B T"], keys: Int[Array, "B M"]) -> Bool[Array, "B 1 T M"]:
    """Tokens of one block see each other, before and after; block 0 is no block.

    queries = keys = 1 1 0 2 2:
        1 1 0 0 0
        1 1 0 0 0
        0 0 0 0 0
        0 0 0 1 1
        0 0 0 1 1
    The prefix of a prefix LM is one block (arXiv:2407.07726, section 3.1), each image of Gemma 3 is
    another (arXiv:2503.19786, section 2).
    """
    return ((queries[:, :, None] == keys[:, None, :]) & (queries > 0)[:, :, None])[:, None]


def window_mask(
    queries: Int[Array, "B T"], keys: Int[Array, "B M"], window: int
) -> Bool[Array, "B 1 T M"]:
    """A query sees the keys fewer than `window` positions before it (arXiv:2004.05150).

    positions 0 1 2, window = 2 (what comes after is left to the causal mask):
        1 1 1
        1 1 1
        0 1 1
    """
    return (queries[:, :, None] - keys[:, None, :] < window)[:, None]


def latest_image_mask(marks: Bool[Array, "B T"], images: int) -> Bool[Array, "B T I"]:
    """A token sees the image that was marked last, at or before it (arXiv:2204.14198, section 2.3).

    marks = 0 1 0 1 0, images = 2:
        0 0
        1 0
        1 0
        0 1
        0 1
    """
    return jnp.cumsum(marks, axis=1)[..., None] == jnp.arange(1, images + 1)[None, None]


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


def with_open_keys(mask: Bool[Array, "#B #N #T S"], length: int) -> Bool[Array, "#B #N #T M"]:
    """The mask with `length` more keys, which all queries see.

    mask = 1 0, length = 1:
        1 0 1
    """
    return jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, length)), constant_values=True)


def zero_padding(x: Float[Array, "B S D"], real: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
    """X with zeros where a token is padding: a mask keeps padding out of a softmax, but not its
    NaNs,
    and when no key is real at all the softmax spreads over the padding.
    """
    return jnp.where(real[..., None], x, 0)


def finite_padding(x: Float[Array, "B S D"], real: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
    """X with zeros where padding is not finite: enough where every softmax has some real key, and
    what becomes of the padding is then the same as without a mask.
    """
    return jnp.where(real[..., None] | jnp.isfinite(x), x, 0)
