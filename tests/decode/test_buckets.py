"""A handful of programs for every length, and what they write does not depend on the bucket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode import language
from vlm_jax.decode import Search, Writer, generate, pack, round_up
from vlm_jax.types import Features


def test_lengths_are_rounded_up():
    assert [round_up(n) for n in (1, 8, 9, 25, 256, 257, 600)] == [8, 8, 16, 32, 256, 512, 768]
    assert [round_up(n, (10,)) for n in (3, 11)] == [10, 20]


def test_prompts_are_packed():
    tokens = np.array([[0, 5, 0, 6], [7, 8, 9, 0]])
    mask = np.array([[False, True, False, True], [True, True, True, False]])
    for size in (3, 6):
        packed, real = pack(tokens, mask, size)
        assert packed.shape == real.shape == (2, size)
        assert packed[0, :3].tolist() == [5, 6, 0] and packed[1, :3].tolist() == [7, 8, 9]
        assert real.sum(axis=1).tolist() == [2, 3]


def write(variables, batch, search):
    size = len(batch["tokens"])
    memory = Features(jnp.zeros((size, 1, 1)), jnp.ones((size, 1), bool))
    inputs = (batch["tokens"], batch["tokens_mask"], memory, search)
    more = {"limit": batch["limit"]}
    return generate(language.decoder, language.init_cache, *inputs, **more)


def batch_of(prompt: int, size: int = 4):
    tokens = np.random.default_rng(prompt).integers(3, language.V, (size, prompt)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[0, 1:] = False
    return {"tokens": tokens, "tokens_mask": mask}


@pytest.mark.parametrize("options", [{}, {"beams": 3, "early_stopping": "never"}], ids=str)
def test_one_program_for_a_bucket_and_the_same_texts(options):
    writer, exact = Writer(write), jax.jit(write, static_argnums=2)
    for prompt, length in ((2, 5), (8, 3), (7, 8), (9, 8), (12, 6)):
        search = Search(max_length=length, eos=(language.EOS,), **options)
        found = writer(None, batch_of(prompt), search)
        limit = {"limit": np.full(4, length, np.int32)}
        expected = exact(None, batch_of(prompt) | limit, search)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-6)
    assert len(writer.programs.made) == 2
    assert writer.programs.made[0].startswith("batch 4, prompt 8, length 8, beams")


def test_buckets_stop_at_the_context_of_the_decoder():
    writer = Writer(write, context=20)
    assert writer._buckets(5, 5) == (8, 8)
    assert writer._buckets(9, 8) == (13, 8)  # 16 and 8 would be 23 positions
    assert writer._buckets(10, 11) == (10, 11)
    with pytest.raises(ValueError, match="a prompt of 10 tokens and 12 new ones do not fit"):
        writer._buckets(10, 12)


def test_each_program_is_logged(caplog):
    with caplog.at_level("INFO"):
        Writer(write)(None, batch_of(3), Search(max_length=4, eos=(language.EOS,)))
    assert "decoding program 1: batch 4, prompt 8, length 8" in caplog.text
