"""Tokens read piece by piece onto a cache give the logits of one reading, whatever the padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoders.test_contract import FIELDS, SMALL, V
from vlm_jax.decode import Search, draft, example_keys, read_on, write_on
from vlm_jax.decode.continued import unread
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.layers.cache import enlarged, rewind
from vlm_jax.types import Features

IMAGE = V + 1
INSERT = dict(memory="insert", image_token=IMAGE, max_length=64)
KINDS = {
    "learned": SMALL | INSERT | dict(bidirectional="none"),
    "gemma 3": FIELDS["gemma 3"] | INSERT,
    "qwen2-vl": SMALL
    | INSERT
    | dict(positions="none", ropes=({},), rope_sections=(1, 0, 1), bidirectional="none"),
}
PIECES = [[3, IMAGE, IMAGE, IMAGE, 5], [7, 2], [4, IMAGE, IMAGE, 6, 8, 1, 9], [2]]
TOKENS = np.array([[token for piece in PIECES for token in piece]])
COUNT = int((TOKENS == IMAGE).sum())
PLACES = jnp.array([[[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]])
MEMORY = Features(jax.random.normal(jax.random.key(1), (1, COUNT, 6)), jnp.ones((1, COUNT), bool))
MEMORY = MEMORY._replace(places=PLACES)


@functools.cache
def build(kind):
    decoder = CausalLM(vocab=V, **KINDS[kind])
    shapes = jax.eval_shape(decoder.init, jax.random.key(2), TOKENS, MEMORY)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes)
    return decoder, functools.partial(decoder.apply, variables)


def share(piece, seen):
    """The memory of one piece's images."""
    here = piece.count(IMAGE)
    cut = lambda x: None if x is None else x[:, seen : seen + here]
    return (Features(*map(cut, MEMORY)) if here else None), seen + here


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_equal_the_whole(kind):
    decoder, apply = build(kind)
    whole, _ = jax.jit(apply)(TOKENS, MEMORY)
    slots = 12 if kind == "learned" else 24
    cache = decoder.init_cache(None, slots, batch=1)
    read, seen, end = jax.jit(functools.partial(read_on, apply)), 0, 0
    for piece in PIECES:
        if end + 7 > slots:
            cache, slots = enlarged(cache, decoder.init_cache(None, 24, batch=1)), 24
        memory, seen = share(piece, seen)
        tokens = np.array([piece + [0] * (7 - len(piece))])
        logits, cache = read(cache, tokens, np.arange(7)[None] < len(piece), memory)
        end += len(piece)
        np.testing.assert_allclose(logits[0], whole[0, end - 1], atol=1e-5)
    assert int(cache["slot"][0, 0]) == TOKENS.size  # padding holds no slot


def test_what_is_taken_back_is_as_if_it_had_not_been_read():
    decoder, apply = build("learned")
    read = jax.jit(functools.partial(read_on, apply))
    cache = decoder.init_cache(None, 24, batch=1)
    memory, _ = share(PIECES[0], 0)
    ask = lambda cache, piece, memory=None: read(
        cache, np.array([piece]), np.ones((1, len(piece)), bool), memory
    )
    _, cache = ask(cache, PIECES[0], memory)
    expected, _ = ask(cache, [4, 6])
    _, after = ask(cache, [9, 9])
    found, _ = ask(rewind(after, len(PIECES[0])), [4, 6])
    np.testing.assert_array_equal(found, expected)


def written(apply, cache, tokens, mask, memory, search):
    """The whole draft of what follows, and the cache that has read it."""
    begun, cache = draft(apply, cache, tokens, mask, memory, search)
    return write_on(apply, cache, begun, search, search.max_length)


def test_the_cache_goes_on_after_what_was_written():
    decoder, apply = build("learned")
    search = Search(max_length=4, eos=(V - 1,), banned=(V - 1,))
    cache = decoder.init_cache(None, 24, batch=1)
    tokens, mask = np.array([[7, 2, 0]]), np.array([[True, True, False]])
    go_on = jax.jit(lambda cache, tokens, mask: written(apply, cache, tokens, mask, None, search))
    found, cache = go_on(cache, tokens, mask)
    assert found.tokens.shape == (4,) and int(cache["slot"][0, 0]) == 2 + 3
    last = int(found.tokens[-1])
    again, _ = go_on(cache, np.array([[last, 5, 0]]), mask)
    everything = np.array([[7, 2, *found.tokens.tolist(), 5]])
    whole, _ = jax.jit(apply)(everything, None)
    assert int(again.tokens[0]) == int(jnp.argmax(whole[0, -1].at[V - 1].set(-jnp.inf)))


@pytest.mark.parametrize("kind", ["learned", "qwen2-vl"])
def test_a_text_written_in_parts_is_the_same_and_its_end_can_be_taken_back(kind):
    decoder, apply = build(kind)
    search = Search(max_length=6, eos=(V - 1,), banned=(V - 1,), no_repeat_ngram=2)
    memory, _ = share(PIECES[0], 0)
    tokens, mask = np.array([PIECES[0] + [0, 0]]), np.arange(7)[None] < len(PIECES[0])
    empty = lambda: decoder.init_cache(None, 24, batch=1)
    whole, _ = jax.jit(lambda *given: written(apply, *given, memory, search))(empty(), tokens, mask)
    begun, cache = jax.jit(lambda *given: draft(apply, *given, memory, search))(
        empty(), tokens, mask
    )
    go_on = jax.jit(lambda cache, begun, until: write_on(apply, cache, begun, search, until))
    for until in (1, 3, 4, 6):
        begun, cache = go_on(cache, begun, jnp.int32(until))
        assert int(begun.length) == until and bool(begun.done) == (until == 6)
        np.testing.assert_array_equal(begun.tokens[:until], whole.tokens[:until])
    assert go_on._cache_size() == 1
    cache = unread(cache, len(PIECES[0]) + 2)  # two of the words that were written
    logits, _ = jax.jit(functools.partial(read_on, apply))(
        cache, np.array([[4, 6]]), np.ones((1, 2), bool), None
    )
    everything = np.array([[*PIECES[0], *whole.tokens[:2].tolist(), 4, 6]])
    expected, _ = jax.jit(apply)(everything, memory)
    np.testing.assert_allclose(logits[0], expected[0, -1], atol=1e-5)


@pytest.mark.parametrize("options", [dict(beams=2), dict(sample=True, n_best=2)])
def test_several_texts_at_once_are_refused(options):
    _, apply = build("learned")
    one = jnp.ones((1, 1), jnp.int32)
    search = Search(max_length=2, eos=(1,), **options)
    with pytest.raises(ValueError, match="one way at a time"):
        draft(apply, {}, one, one > 0, None, search, keys=example_keys(one[0], one[0]))
