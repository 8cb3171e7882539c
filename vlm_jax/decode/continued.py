"""A text that is continued again and again: what is new is read onto the cache that is there, and
what follows is written at once or some tokens at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vlm_jax.decode.generate import check_vocabulary
from vlm_jax.decode.hypotheses import read_side_by_side
from vlm_jax.decode.sampling import Texts, begin, extend
from vlm_jax.decode.search import NEVER, Request, Search, make_request
from vlm_jax.layers.cache import rewind
from vlm_jax.types import Cache, Features

Decoder = Callable[..., tuple[Array, Cache]]


class Draft(NamedTuple):
    """An answer that is being written: its tokens so far, and what was asked for."""

    texts: Texts
    request: Request

    @property
    def tokens(self) -> Int[Array, " T"]:
        """i32[T], padding after the last; T is max_length."""
        return self.texts.found.tokens[0, 0]

    @property
    def length(self) -> Int[Array, ""]:
        """How many tokens there are; all but the last have been read."""
        return self.texts.found.lengths[0, 0]

    @property
    def done(self) -> Bool[Array, ""]:
        """Whether nothing follows."""
        return self.texts.done[0, 0]


def read_on(
    decoder: Decoder,
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


def draft(
    decoder: Decoder,
    cache: Cache,
    tokens: Int[Array, "1 T"],
    mask: Bool[Array, "1 T"],
    memory: Features | None,
    search: Search,
    *,
    keys: Key[Array, " 1"] | None = None,
) -> tuple[Draft, Cache]:
    """The first token of what follows some more tokens, and the cache that has read these.

    decoder: see `generate`; its cache has slots (see layers.cache). search: greedy or drawn, a
    single text: ValueError otherwise, or for a token that the vocabulary lacks. keys: see
    `decode.Request`; n-grams and penalties are counted from here on. The draft is shaped by the
    cache and the search alone, so that `write_on` is compiled once for turns of any length.
    """
    if search.hypotheses != 1 or search.beams > 1:
        raise ValueError("a text is continued one way at a time: drop beams and n_best")
    request = make_request(tokens, mask, search, keys=keys)
    empty = max(cache["position"].shape[-1] - tokens.shape[1], 0)
    prompt = jnp.pad(request.prompt, ((0, 0), (empty, 0)), constant_values=NEVER)
    logits, cache = read_on(decoder, cache, tokens, mask, memory)
    check_vocabulary(search, logits.shape[-1])
    request = request._replace(prompt=prompt)
    return Draft(begin(logits, search, request), request), cache


def write_on(
    decoder: Decoder, cache: Cache, begun: Draft, search: Search, until: Any
) -> tuple[Draft, Cache]:
    """The same draft when it has `until` tokens or is done, and the cache that has read all of it
    but its last token. until: i32[], at most search.max_length.
    """
    step = partial(read_side_by_side, decoder)
    texts, cache = extend(begun.texts, cache, step, search, begun.request, until)
    return begun._replace(texts=texts), cache


def unread(cache: Cache, length: Any) -> Cache:
    """The cache with its first `length` tokens alone, i32[]; those after it must be words that were
    written.
    """
    ahead = {}
    if "ahead" in cache:
        ahead["ahead"] = cache["ahead"] - (cache["slot"] - length)
    return rewind(cache, length) | ahead
