"""Prompts through a decoder, then a search."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from vlm_jax.decode.beams import beam_search
from vlm_jax.decode.hypotheses import read_side_by_side
from vlm_jax.decode.sampling import write
from vlm_jax.decode.search import Generated, Search, make_request
from vlm_jax.decode.trie import Trie
from vlm_jax.layers.apart import cache_apart
from vlm_jax.types import Cache, Features


def generate(
    decoder: Callable[..., tuple[Array, Cache]],
    init_cache: Callable[..., Cache],
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    memory: Features | None,
    search: Search,
    *,
    prefix: Int[Array, " B"] | None = None,
    limit: Int[Array, " B"] | None = None,
    keys: Key[Array, " B"] | None = None,
    trie: Trie | None = None,
    step: Callable[..., tuple[Array, Cache]] | None = None,
) -> Generated:
    """Continue the prompts, which may be padded on either side, with a decoder of this codebase.

    decoder: `(tokens, memory, cache, *, mask, prefix, after) -> (logits, cache)`, parameters
    included, such as `partial(model.apply, variables)`; init_cache: its `init_cache`. prefix: see
    decoders. limit, keys, trie: see `decode.Request`. step: the same decoder for single tokens, its
    layers apart, see `layers.apart`; None: `decoder`.

    Every row needs at least one real prompt token. ValueError for a prompt that is too long (by
    init_cache), for tokens that the vocabulary lacks and for a search that is given too little.
    """
    request = make_request(prompt, prompt_mask, search, limit=limit, keys=keys, trie=trie)
    steps = search.max_length - 1  # the last token is not read
    # One token each even without a step: the loop is compiled all the same.
    extra = (search.hypotheses - 1) * steps if steps else search.hypotheses
    cache = init_cache(memory, prompt.shape[1] + steps, extra)
    last = jnp.max(jnp.where(prompt_mask, jnp.arange(prompt.shape[1])[None], 0), axis=1)  # [B]
    logits, cache = decoder(prompt, memory, cache, mask=prompt_mask, prefix=prefix, after=last)
    check_vocabulary(search, logits.shape[-1])
    kind = beam_search if search.beams > 1 else write
    if step is not None:
        decoder, cache = step, cache_apart(cache)
    found = kind(logits[:, 0], cache, partial(read_side_by_side, decoder), search, request)
    return jax.tree.map(
        lambda x: x[:, 0] if search.n_best is None else x[:, : search.n_best], found
    )


def check_vocabulary(search: Search, vocab: int) -> None:
    """ValueError if a search names a token that the decoder does not have, or forbids them all."""
    named = {name: getattr(search, name) for name in ("eos", "banned", "banned_first", "forced")}
    named["banned_words"] = [token for word in search.banned_words for token in word]
    for name, tokens in named.items():
        wrong = [token for token in tokens if token >= vocab]
        if wrong:
            raise ValueError(
                f"{name} has token {wrong[0]}, but the decoder's vocabulary ends at {vocab - 1}"
            )
    alone = {word[0] for word in search.banned_words if len(word) == 1}
    if len({*search.banned, *alone}) >= vocab:
        raise ValueError(f"all {vocab} tokens are banned: allow some")
