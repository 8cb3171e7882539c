"""Matching beside contrast: its loss, and the second stage of a ranking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.test_evaluate import TOKENIZER, evaluate, retrieval_run, source
from vlm_jax.data.schema import DataError
from vlm_jax.experiment import asked
from vlm_jax.tasks import TASKS
from vlm_jax.tasks.matching import TOGETHER, Matching, mark, match_scores

RNG = np.random.default_rng(0)
START = 3


def task(**match):
    return TASKS["retrieval"](TOKENIZER, length=6, match=match)


def test_a_pair_and_two_wrong_ones_cost_a_third_each():
    logits = jnp.asarray(RNG.normal(size=(2, 3, 2)), jnp.float32)
    outputs = {"image_embeds": jnp.eye(2), "text_embeds": jnp.eye(2), "scale": jnp.float32(3.0)}
    outputs |= {"match_logits": logits, "match_found": jnp.array([[1, 1, 1], [1, 0, 1]], bool)}
    chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    each = -np.log(np.stack([chances[:, 0, 1], chances[:, 1, 0], chances[:, 2, 0]], axis=1))
    each[1, 1] = 0  # the batch had no wrong image for the second text
    expected = np.log1p(np.exp(-3.0)) + 2 * each.mean(axis=1)
    found = jax.jit(lambda outputs: task(weight=2.0).loss(outputs, {}))(outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    other = task(weight=2.0, match_class=0).loss(outputs | {"match_logits": logits[..., ::-1]}, {})
    np.testing.assert_allclose(other, expected, rtol=1e-5)


def test_training_knows_which_texts_are_true_of_a_picture():
    example = source(3)[2]
    found = task(start=START).preprocess(example, None)
    assert found["text_with_image"][0] == START != found["text"][0]
    np.testing.assert_array_equal(found["text_with_image"][1:], found["text"][1:])
    captions = example["captions"]
    assert found["text_id"] == mark(captions[0]) and found["picture_id"] == mark("e2")
    assert {*found["said_ids"].tolist()} == {int(mark(text)) for text in captions}
    plain = TASKS["retrieval"](TOKENIZER, length=6)
    assert {*plain.preprocess(example, None)} == {"text", "text_mask"}
    assert (asked(task()), asked(plain)) == ("match", "contrast")


def matching_run(data, vectors, logits, skip=()):
    """A run whose match of picture i with the text that starts with token t is logits[i, t]."""
    run = retrieval_run(data, vectors, skip)
    run.read = []

    def matches(source, inputs, **how):
        for place in range(len(source)):
            example = source[place]
            given = inputs(example)
            run.read.append(given["text"])
            texts = [
                TOKENIZER.decode(row[given["text_mask"][i]].tolist())
                for i, row in enumerate(given["text"])
            ]
            yield place, np.array([logits[example["id"], text] for text in texts])

    run.matches = matches
    return run


def wholes(data):
    return {text: TOKENIZER.decode(TOKENIZER.encode(text)) for e in data for text in e["captions"]}


def known_logits(data):
    texts = wholes(data)
    return {(e["id"], texts[text]): RNG.normal() for e in data for text in texts}


def test_scores_of_pairs_come_in_their_order_however_many_texts_a_picture_has():
    data = source(40)
    texts = [text for example in data for text in example["captions"]]
    logits, spelled = known_logits(data), wholes(data)
    pairs = np.array([(3, j) for j in range(TOGETHER + 5)] + [(1, 2), (3, 79), (0, 5)])
    pairs = pairs[RNG.permutation(len(pairs))]
    reads = TASKS["retrieval"](TOKENIZER, length=16, match={})
    run = matching_run(data, None, logits)
    found = match_scores(run, reads, data, texts, pairs)
    expected = [logits[data[i]["id"], spelled[texts[j]]] for i, j in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(run.read) == 4 and {x.shape for x in run.read} == {(TOGETHER, 16)}


@pytest.mark.parametrize("rerank", [3, 100])
def test_the_best_by_contrast_are_ordered_by_match_and_the_others_stay_behind(rerank):
    data = source(12)
    vectors = RNG.normal(size=(12, 12)).astype(np.float32)
    logits, spelled = known_logits(data), wholes(data)
    run = matching_run(data, vectors, logits, skip=(5,))
    found = evaluate("retrieval", run, data, length=16, match=dict(rerank=rerank))
    plain = evaluate("retrieval", retrieval_run(data, vectors, skip=(5,)), data, length=16)
    assert {name: found[name] for name in plain} == plain
    shown = [i for i in range(12) if i != 5]
    texts = [text for i in shown for text in data[i]["captions"]]
    first = np.array(
        [[vectors[i][j // 2 if j // 2 < 5 else j // 2 + 1] for j in range(22)] for i in shown]
    )
    match = np.array([[logits[data[i]["id"], spelled[text]] for text in texts] for i in shown])
    own = np.arange(22)[None] // 2 == np.arange(11)[:, None]
    for way, x, m, right in (
        ("image_to_text", first, match, own),
        ("text_to_image", first.T, match.T, own.T),
    ):
        ranks = []
        for row in range(len(x)):
            order = np.argsort(-x[row], kind="stable")
            best = sorted(order[:rerank], key=lambda j: -(x + m)[row, j])
            ranks.append(1 + np.argmax(right[row][[*best, *order[rerank:]]]))
        assert found[f"{way}/reranked/R@1"] == np.mean(np.array(ranks) == 1)
        assert found[f"{way}/reranked/mean_rank"] == pytest.approx(np.mean(ranks))


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match=r"match\.rerank=-1"):
        Matching(rerank=-1)
    with pytest.raises(ValueError, match="image and a text together"):
        TASKS["retrieval"](TOKENIZER, between=("audio", "text"), match={})
    known = source(1)[0] | {"text_features": np.zeros((2, 4), np.float32)}
    with pytest.raises(DataError, match="features of texts cannot be matched"):
        task().preprocess(known, None)


def test_without_a_shared_space_a_text_is_chosen_among_wrong_ones_by_the_match():
    alone = TASKS["retrieval"](TOKENIZER, length=6, match={}, contrast=False)
    assert asked(alone) == "pair"
    logits = RNG.normal(size=(2, 3, 1)).astype(np.float32)
    there = np.array([[1, 1, 1], [1, 0, 1]], bool)
    odds = np.exp(logits[..., 0]) * there
    expected = -np.log(odds[:, 0] / odds.sum(axis=1))
    outputs = {"match_logits": jnp.asarray(logits), "match_found": jnp.asarray(there)}
    np.testing.assert_allclose(alone.loss(outputs, {}), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="ranks by the match alone: set match={}"):
        TASKS["retrieval"](TOKENIZER, contrast=False)


def test_every_text_is_matched_with_every_picture_without_a_shared_space():
    data = source(6)
    logits, spelled = known_logits(data), wholes(data)
    run = matching_run(data, None, logits)
    every = run.matches

    def matches(source, inputs, **how):
        assert how == dict(match_class=-1, apart=True)
        yield from ((i, row) for i, row in every(source, inputs) if source[i]["id"] != "e2")

    run.matches = matches
    found = evaluate("retrieval", run, data, length=16, match={}, contrast=False)
    shown = [example for example in data if example["id"] != "e2"]
    texts = [text for example in shown for text in example["captions"]]
    table = np.array(
        [[logits[example["id"], spelled[text]] for text in texts] for example in shown]
    )
    own = np.array([[text in example["captions"] for text in texts] for example in shown])
    for way, scores, right in (("image_to_text", table, own), ("text_to_image", table.T, own.T)):
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks = 1 + ((scores > best) & ~right).sum(axis=1)
        assert found[f"{way}/mean_rank"] == np.mean(ranks)
        assert found[f"{way}/R@5"] == np.mean(ranks <= 5)
    assert found["n"] == 5 and not any("reranked" in name for name in found)
