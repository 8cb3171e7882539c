"""How tasks combine the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.programs import shapes
from vlm_jax import losses
from vlm_jax.experiment import asked
from vlm_jax.tasks import TASKS
from vlm_jax.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer({"name": "word"}, lambda: ["a red dog"])
RNG = np.random.default_rng(0)
WORDS = jnp.asarray(RNG.normal(size=(2, 3, 8)), jnp.float32)
TEXT = {
    "targets": jnp.array([[1, 2, 3], [4, 5, 0]], jnp.int32),
    "targets_mask": jnp.array([[False, True, True], [True, False, False]]),
}


@pytest.mark.parametrize("name", ["captioning", "vqa_generation", "chat"])
def test_written_text_costs_the_mean_of_its_tokens(name):
    given = {"format": {}} if name == "chat" else {}
    task = TASKS[name](TOKENIZER, label_smoothing=0.1, **given)
    expected = losses.masked_cross_entropy(WORDS, *TEXT.values(), label_smoothing=0.1)
    np.testing.assert_array_equal(task.loss({"logits": WORDS}, TEXT), expected)


def test_words_of_a_wrong_image_do_not_count_and_matching_always_does():
    task = TASKS["masked_pretraining"](TOKENIZER, match_weight=2.0)
    match = jnp.array([[0.0, 1.0], [0.5, -0.5]])
    batch = TEXT | {"matched": jnp.array([True, False])}
    words = losses.masked_cross_entropy(WORDS, *TEXT.values())
    right = losses.softmax_cross_entropy(match, jnp.array([1, 0], jnp.int32))
    expected = [words[0] + 2 * right[0], 2 * right[1]]
    found = task.loss({"word_logits": WORDS, "match_logits": match}, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_retrieval_chooses_its_loss_and_asks_for_the_bias_it_needs():
    vectors = jnp.eye(2, 4)
    outputs = {"image_embeds": vectors, "text_embeds": vectors, "scale": jnp.float32(3.0)}
    softmax, sigmoid = (TASKS["retrieval"](TOKENIZER, loss_name=n) for n in ("softmax", "sigmoid"))
    np.testing.assert_allclose(softmax.loss(outputs, {}), np.log1p(np.exp(-3.0)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"needs config\.model\.contrast\.bias"):
        sigmoid.loss(outputs, {})
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))
    biased = sigmoid.loss(outputs | {"bias": jnp.float32(-1.0)}, {})
    np.testing.assert_allclose(biased, expected, rtol=1e-5)


def test_retrieval_compares_the_two_kinds_it_is_between():
    kinds = {kind: jnp.roll(jnp.eye(2, 4), i, axis=0) for i, kind in enumerate(("image", "audio"))}
    outputs = {f"{kind}_embeds": x for kind, x in (kinds | {"text": kinds["image"]}).items()}
    outputs["scale"] = jnp.float32(3.0)
    for between, right in (("image", "text"), True), (("audio", "image"), False):
        found = TASKS["retrieval"](TOKENIZER, between=between).loss(outputs, {})
        np.testing.assert_allclose(found, np.log1p(np.exp(-3.0)) + 3 * (not right), rtol=1e-5)


@pytest.mark.parametrize("name", ["captioning", "vqa_generation"])
def test_a_blocked_task_asks_for_words_and_costs_the_same(name):
    task = TASKS[name](TOKENIZER, label_smoothing=0.1, blocked=3)
    assert asked(task) == "unembed" and asked(TASKS[name](TOKENIZER)) == "generate"
    words = losses.Unembedding(WORDS, jnp.eye(8))
    whole = task.loss({"logits": WORDS}, TEXT)
    np.testing.assert_allclose(task.loss({"words": words}, TEXT), whole, rtol=1e-5)


def test_a_large_batch_is_compared_in_tiles_unless_a_config_says_otherwise():
    task, tiled = TASKS["retrieval"](TOKENIZER), TASKS["retrieval"](TOKENIZER, chunk=2)
    vectors = [jax.ShapeDtypeStruct((rows, 4), jnp.float32) for rows in (4096, 8192)]

    def largest(task, vectors):
        loss = lambda x: task.loss({"image_embeds": x, "text_embeds": x, "scale": jnp.ones(())}, {})
        return max(np.prod(shape, dtype=int) for shape in shapes(loss, vectors))

    assert largest(task, vectors[0]) == 4096**2 and largest(task, vectors[1]) < 8192 * 1024
    assert largest(tiled, vectors[0]) < 4096**2
