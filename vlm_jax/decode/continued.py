"""A text that is continued again and again: what is new is read onto the cache that is there."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vlm_jax.decode.generate import check_vocabulary
from vlm_jax.decode.hypotheses import read_side_by_side
from vlm_jax.decode.sampling import write_on
from vlm_jax.decode.search import Generated, Search, make_request
from vlm_jax.layers.cache import rewind
from vlm_jax.types import Cache, Features


def read_on(
    decoder: Callable[..., tuple[Array, Cache]],
    cache: Cache,
    tokens: Int[Array, "1 T"],
    mask: Bool[Array, "1 T"],
    memory: Features | None,
) -> tuple[Float[Array, "1 V"], Cache]:
    """Logits after the last real token, and the cache with the real ones in its next slots.

    mask: the real tokens come first. memory: of the images among these tokens. Slots that padding
    took are free again, so what a conversation holds is as long as its real tokens. At least T
    slots must be free.
    """
    before, real = cache["slot"][0, 0], jnp.sum(mask, dtype=jnp.int32)
    logits, cache = decoder(tokens, memory, cache, mask=mask, after=(real - 1)[None])
    return logits[:, 0], rewind(cache, before + real)


def continued(
    decoder: Callable[..., tuple[Array, Cache]],
    cache: Cache,
    tokens: Int[Array, "1 T"],
    mask: Bool[Array, "1 T"],
    memory: Features | None,
    search: Search,
    *,
    keys: Key[Array, " 1"] | None = None,
) -> tuple[Generated, Cache]:
    """What one text goes on with after some more tokens, and the cache that has read them and all
    of what was written but its last token.

    decoder: see `generate`; its cache has slots (see layers.cache). search: greedy or drawn, a
    single text: ValueError otherwise, or for a token that the vocabulary lacks. keys: see
    `decode.Request`; n-grams and penalties are counted from here on.
    """
    if search.hypotheses != 1 or search.beams > 1:
        raise ValueError("a text is continued one way at a time: drop beams and n_best")
    request = make_request(tokens, mask, search, keys=keys)
    logits, cache = read_on(decoder, cache, tokens, mask, memory)
    check_vocabulary(search, logits.shape[-1])
    found, cache = write_on(logits, cache, partial(read_side_by_side, decoder), search, request)
    return found._replace(**{k: getattr(found, k)[:, 0] for k in found._fields}), cache
