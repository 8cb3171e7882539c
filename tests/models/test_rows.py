"""Which image a row of text is read with; wrong ones are really wrong, the nearer the likelier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.models.rows import (
    PAIRED,
    following,
    hard_negatives,
    match_scores,
    true_pairs,
    with_negatives,
)
from vlm_jax.types import Features

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(0, 1.5, (4, 4)), jnp.float32)
TRUE = jnp.asarray([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)


def test_wrong_rows_are_drawn_by_the_softmax_over_those_that_are_wrong():
    draw = jax.jit(jax.vmap(lambda key: hard_negatives(LOGITS, TRUE, key)))
    found = draw(jax.random.split(jax.random.key(1), 4000))
    for chosen, logits, true in ((found.text, LOGITS, TRUE), (found.image, LOGITS.T, TRUE.T)):
        chances = np.where(true, 0, np.exp(logits))
        chances = chances / chances.sum(axis=1, keepdims=True)
        for row in range(4):
            share = np.bincount(chosen[:, row], minlength=4) / 4000
            np.testing.assert_allclose(share, chances[row], atol=0.03)
            assert (share[np.asarray(true[row])] == 0).all()


def test_a_draw_depends_on_the_key_alone_and_without_one_the_nearest_is_taken():
    first, again, other = (hard_negatives(LOGITS, TRUE, jax.random.key(i)) for i in (0, 0, 3))
    assert (first.text == again.text).all() and (first.image == again.image).all()
    assert (first.text != other.text).any() or (first.image != other.image).any()
    nearest = hard_negatives(LOGITS, TRUE)
    np.testing.assert_array_equal(nearest.text, np.where(TRUE, -np.inf, LOGITS).argmax(axis=1))


def test_where_nothing_is_wrong_it_says_so():
    true = TRUE.at[:, 0].set(True)  # the first text is true of every image
    np.testing.assert_array_equal(
        hard_negatives(LOGITS, true).found[:, 0], [False, True, True, True]
    )
    assert hard_negatives(LOGITS, true).found[:, 1].all()
    assert not hard_negatives(LOGITS[:1, :1], TRUE[:1, :1]).found.any()


def test_texts_are_true_of_their_picture_and_of_those_that_say_them():
    pictures = jnp.array([1, 1, 2, 3], jnp.uint32)
    texts = jnp.array([10, 11, 12, 10], jnp.uint32)
    said = jnp.array([[10, 12], [10, 11], [12, 12], [10, 10]], jnp.uint32)
    expected = [[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]]
    np.testing.assert_array_equal(true_pairs(pictures, texts, said), np.array(expected, bool))


BLOCK = dict(layers=1, heads=2, mlp_width=8)
LOOKS = dict(name="transformer", vocab=12, width=8, max_length=8, parts=("self", "cross", "mlp"))
MODELS = {
    "the text encoder looks": dict(text=LOOKS | BLOCK),
    "queries read both": dict(
        text=LOOKS | BLOCK | dict(layers=0, parts=("self", "mlp"), pooling="none"),
        fusion=dict(name="qformer", queries=2, width=8, reads_text=True, **BLOCK),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_pairs_are_judged_as_if_each_came_alone(name):
    vision = dict(name="vit", patch=4, image_size=8, width=8, **BLOCK)
    heads = dict(contrast=dict(size=6), classify=dict(classes=2))
    model = models.build(dict(vision=vision, **MODELS[name], **heads))
    ids = jnp.arange(1, 4, dtype=jnp.uint32)
    text = jnp.asarray(RNG.integers(1, 12, (3, 5)), jnp.int32)
    read = {"text_mask": jnp.arange(5)[None] < jnp.array([[5], [3], [4]])}
    marks = {"picture_id": ids, "text_id": ids, "said_ids": ids[:, None]}
    inputs = read | marks | {"text": text, "text_with_image": text.at[:, 0].set(7)}
    batch = {"image": jnp.asarray(RNG.integers(0, 256, (3, 8, 8, 3)), jnp.uint8), "find": inputs}

    @jax.jit
    def run(key):
        shapes = jax.eval_shape(lambda: model.init(key, batch, {"find": "match"}))
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))
        noise = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        variables = jax.tree.unflatten(tree, noise)
        found = model.apply(variables, batch, {"find": "match"})["find"]
        visual = model.apply(variables, batch["image"], method="encode_image")
        every = lambda x: jnp.repeat(x, 3, axis=0)  # image 0 three times, image 1 three times ...
        texts = {"text": inputs["text_with_image"], "text_mask": inputs["text_mask"]}
        texts = {key: jnp.tile(x, (3, 1)) for key, x in texts.items()}
        pairs = jax.tree.map(every, visual)
        judged = model.apply(variables, pairs, texts, method="understand")["logits"]
        return found, judged.reshape(3, 3, 2)

    found, judged = run(jax.random.key(2))
    images, texts = found["image_embeds"], found["text_embeds"]
    cosines = np.einsum("iqe,je->ijq", images.reshape(3, -1, 6), texts).max(axis=2)
    chosen = hard_negatives(jnp.asarray(cosines), jnp.eye(3, dtype=bool))
    rows = np.arange(3)
    expected = [judged[rows, rows], judged[chosen.image, rows], judged[rows, chosen.text]]
    np.testing.assert_allclose(found["match_logits"], np.stack(expected, axis=1), atol=1e-5)
    assert found["match_found"].all()


def test_three_rows_for_each_stand_together():
    visual = Features(jnp.arange(6.0).reshape(3, 2, 1), jnp.ones((3, 2), bool))
    chosen = hard_negatives(jnp.array([[0, 1, 2], [2, 0, 1], [1, 2, 0.0]]), jnp.eye(3, dtype=bool))
    images, texts = with_negatives(visual, {"text": jnp.array([[0], [1], [2]])}, chosen)
    assert images.tokens[:, 0, 0].tolist() == [0, 2, 0, 2, 4, 2, 4, 0, 4]
    assert texts["text"][:, 0].tolist() == [0, 0, 2, 1, 1, 0, 2, 2, 1]


def test_an_image_meets_its_own_text_first_and_then_those_of_the_next_rows():
    count = PAIRED + 2
    numbers = np.arange(count, dtype=np.uint32)
    said = numbers[:, None].repeat(2, 1)
    said[0, 1] = 3  # the fourth text is true of the first image, too
    inputs = dict(
        text=jnp.arange(count * 3).reshape(count, 3), text_mask=jnp.ones((count, 3), bool)
    )
    inputs |= dict(picture_id=numbers, text_id=numbers, said_ids=said)
    texts, found = following({name: jnp.asarray(x) for name, x in inputs.items()})
    rows = np.asarray(texts["text"]).reshape(count, PAIRED, 3)
    for row in range(count):
        expected = [inputs["text"][(row + i) % count] for i in range(PAIRED)]
        np.testing.assert_array_equal(rows[row], expected)
    expected = np.ones((count, PAIRED), bool)
    expected[0, 3] = False
    np.testing.assert_array_equal(found, expected)
    few, there = following({name: jnp.asarray(x)[:2] for name, x in inputs.items()})
    assert few["text"].shape == (4, 3) and there.shape == (2, 2)


def test_a_match_is_judged_by_classes_or_apart_from_them_by_its_own_score():
    classes, own = jnp.zeros((1, 2)), jnp.ones((1, 2))
    both = dict(logits=classes, match_logits=own)
    assert match_scores(both) is classes and match_scores(both, apart=True) is own
    assert match_scores(dict(logits=classes), apart=True) is classes
    with pytest.raises(ValueError, match=r"needs config\.model\.classify, or"):
        match_scores(dict(match_logits=own))
