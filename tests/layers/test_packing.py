"""Packed rows: who sees whom, and that nothing is learned otherwise than from rows of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.data.packing import Packing, join
from vlm_jax.data.pipeline import stack
from vlm_jax.layers.cache import place
from vlm_jax.layers.masks import block_mask
from vlm_jax.layers.packing import packed, placed, places
from vlm_jax.losses import written_cross_entropy

SEGMENTS = jnp.array([[1, 2, 1, 2, 2, 0]])
REAL = SEGMENTS > 0


def test_tokens_see_and_count_their_own_segment_only():
    np.testing.assert_array_equal(places(REAL, SEGMENTS)[0, :5], [0, 0, 1, 1, 2])
    same = np.array(block_mask(SEGMENTS, SEGMENTS)[0, 0])
    assert not same[5].any() and not same[:, 5].any()
    placement, blocks = packed(place(REAL, None)[0], SEGMENTS, jnp.array([[1, 1, 1, 0, 0, 0]]))
    np.testing.assert_array_equal(placement.positions, placement.key_positions)
    causal = np.tril(np.ones((6, 6), bool))
    np.testing.assert_array_equal(placement.visible[0, 0], same & causal)
    assert blocks[0, 0] == blocks[0, 2] != blocks[0, 1] and not blocks[0, 3:].any()
    assert packed(place(REAL, None)[0], SEGMENTS, None)[1] is None


IMAGES, TOKENS, IMAGE_TOKEN = 4, 10, 1
LENGTHS = [(9, 3), (7, 2), (8, 4), (10, 3)]  # tokens and prompt of each example
ROWS = [[0, 1], [2, 3]]
VISION = dict(name="precomputed", width=12)
WORDS = dict(name="causal_lm", vocab=24, width=16, layers=1, heads=2, mlp_width=24, max_length=16)
KINDS = {
    "prepend": dict(memory="prepend", tied=False, windows=(6,)),
    "insert": dict(memory="insert", image_token=IMAGE_TOKEN, bidirectional="memory"),
    "prompt": dict(memory="insert", image_token=IMAGE_TOKEN, ropes=({},), positions="none"),
}


def examples(kind):
    """Four examples with texts of different lengths; where images are inserted, 4 tokens each."""
    rng, made = np.random.default_rng(0), []
    for index, (length, prompt) in enumerate(LENGTHS):
        real = np.arange(TOKENS) < length
        ids = np.where(real, rng.integers(2, 24, TOKENS), 0).astype(np.int32)
        if KINDS[kind]["memory"] == "insert":
            ids[:4], prompt = IMAGE_TOKEN, prompt + 3
        targets = np.roll(ids, -1)
        counted = real & (np.arange(TOKENS) >= prompt - 1)
        text = {"tokens": ids, "tokens_mask": real, "prefix": np.int32(prompt)}
        text |= {"targets": targets, "targets_mask": counted & (np.arange(TOKENS) < length - 1)}
        image = rng.normal(size=(4, 8)).astype(np.float32)
        made.append({"image": image, "index": np.int32(index), "words": text})
    return made


@functools.cache
def trained(kind):
    model = models.build({"vision": VISION, "decoder": WORDS | KINDS[kind]})
    batch = jax.tree.map(jnp.asarray, stack(examples(kind)))
    found = jax.jit(lambda key: model.init(key, batch, {"words": "generate"}))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]

    @functools.partial(jax.jit, static_argnums=2)
    def loss(variables, batch, ask="generate"):
        def mean(variables):
            outputs = model.apply(variables, batch, {"words": ask}, train=True)
            return written_cross_entropy(outputs["words"], batch["words"], block=7).mean()

        return jax.value_and_grad(mean)(variables)

    return jax.tree.unflatten(tree, drawn), loss


def packed_batch(kind):
    made = examples(kind)
    return stack([join([made[i] for i in row], Packing("words", 24, 3)) for row in ROWS])


@pytest.mark.parametrize(
    ("kind", "ask"), [("prepend", "generate"), ("insert", "generate"), ("prompt", "unembed")]
)
def test_packed_rows_give_the_loss_and_the_gradients_of_separate_ones(kind, ask):
    variables, loss = trained(kind)
    expected = loss(variables, stack(examples(kind)))
    found = loss(variables, packed_batch(kind), ask)
    assert float(expected[0]) > 1
    for ours, true in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-5 * max(np.abs(true).max(), 1e-3))


def test_given_positions_replace_those_that_are_counted():
    given = jnp.array([[3, 1, 0, 2, 5, 4]])
    placement, _, _ = placed(None, REAL, None, None, None, given)
    np.testing.assert_array_equal(placement.positions, given)
    np.testing.assert_array_equal(placement.key_positions, given)
    np.testing.assert_array_equal(placement.visible, place(REAL, None)[0].visible)
    with pytest.raises(ValueError, match="without cache and segments"):
        placed(None, REAL, None, SEGMENTS, None, given)


def test_what_cannot_read_packed_rows_says_so():
    decoder = WORDS | dict(memory="attend")
    model = models.build({"vision": VISION, "decoder": decoder})
    batch = jax.tree.map(jnp.asarray, packed_batch("prompt"))
    with pytest.raises(ValueError, match='segments need memory="prepend"'):
        jax.eval_shape(lambda: model.init(jax.random.key(0), batch, {"words": "generate"}))
