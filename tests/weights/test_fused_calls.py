"""Names and order of what understanding networks give."""

import jax.numpy as jnp
import numpy as np

from vlm_jax.weights.fused_calls import match, named, text_first, typed_inputs, understand

IDS = jnp.array([[3, 4]])


def test_words_come_before_classes_and_matches_are_scores():
    found = dict(tokens=1, pooled=2, logits=3, word_logits=4, match_logits=5, other=6)
    assert named(found) == dict(tokens=1, pooled=2, logits=4, score=5)
    assert named(dict(tokens=1, logits=3)) == dict(tokens=1, logits=3)


def test_the_texts_tokens_move_to_the_front():
    tokens = jnp.arange(5.0).reshape(1, 5, 1)
    found = dict(tokens=tokens, logits=tokens[:, 0], pooled=tokens)
    moved = text_first(found, 2)
    np.testing.assert_array_equal(moved["tokens"][0, :, 0], [3, 4, 0, 1, 2])
    np.testing.assert_array_equal(moved["logits"], found["logits"])
    np.testing.assert_array_equal(moved["pooled"], found["pooled"])


def test_a_match_is_the_score_or_else_the_logits():
    scored = match(lambda apply, inputs, flags: dict(logits=1, score=2))
    bare = match(lambda apply, inputs, flags: dict(logits=1, tokens=3))
    assert scored(None, {}, {}) == dict(logits=2, score=2)
    assert bare(None, {}, {}) == dict(logits=1, score=1, tokens=3)


def test_token_types_are_passed_on_where_they_are_given():
    assert set(typed_inputs(dict(input_ids=IDS))) == {"text", "text_mask"}
    assert typed_inputs(dict(input_ids=IDS, token_type_ids=IDS))["text_types"] is IDS


def test_without_a_picture_the_text_is_understood_alone():
    seen = []

    def apply(visual, given, method):
        seen.append((visual, method))
        return dict(tokens=given["text"])

    assert understand(apply, dict(input_ids=IDS), {})["tokens"] is IDS
    assert seen == [(None, "understand")]
