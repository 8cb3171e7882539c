"""Retrieval ranks against a plain loop, and the cases where naive code reports perfection."""

import tracemalloc

import numpy as np
import pytest

from vlm_jax.metrics.bootstrap import resamples_of
from vlm_jax.metrics.recall import (
    RetrievalResult,
    first_candidates,
    positives_of_groups,
    products,
    rank_measures,
    rank_metrics,
    retrieval_metrics,
    retrieval_ranks,
    retrieval_scores,
    retrieve,
    transposed_positives,
)


def test_ranks_equal_a_plain_loop_for_every_chunk_size():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(17, 6)), rng.normal(size=(23, 6))
    positives = [rng.choice(23, size=rng.integers(1, 5), replace=False) for _ in range(17)]
    expected = []
    for query, right in zip(queries, positives, strict=True):
        scores = gallery @ query
        wrong = np.delete(scores, right)
        expected.append(1 + sum(score >= scores[right].max() for score in wrong))
    for chunk in (1, 5, 17, 1000):
        assert retrieval_ranks(queries, gallery, positives, chunk).tolist() == expected


def _average_precision(scores, right):
    """By definition, with every wrong item before the right ones of the same score."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i in right))
    hits = [i in right for i in order[: len(right)]]
    return sum(sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit) / len(right)


@pytest.mark.parametrize("most", [3, 15])
def test_average_precision_equals_its_definition_for_every_chunk_size(most):
    rng = np.random.default_rng(4)
    queries, gallery = rng.integers(-2, 3, size=(19, 3)), rng.integers(-2, 3, size=(31, 3))
    positives = [rng.choice(31, size=rng.integers(1, most), replace=False) for _ in range(19)]
    expected = [
        _average_precision(gallery @ query, set(right.tolist()))
        for query, right in zip(queries, positives, strict=True)
    ]
    ranks = retrieve(queries, gallery, positives).ranks
    for chunk, gallery_chunk in [(512, 8192), (1, 1), (4, 7), (19, 31), (7, 30)]:
        found = retrieve(queries, gallery, positives, chunk, gallery_chunk)
        np.testing.assert_allclose(found.average_precision, expected, atol=1e-12)
        assert (found.ranks == ranks).all()


def test_memory_does_not_grow_with_the_product_of_the_sizes():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, 4)).astype(np.float32)
    positives = [[i] for i in range(len(vectors))]
    tracemalloc.start()
    found = retrieve(
        vectors, vectors / np.linalg.norm(vectors, axis=1)[:, None], positives, 64, 500
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.ranks) == 6000
    assert peak < 8e6  # all scores would be 288 MB


def test_a_resample_of_ranks_equals_the_metrics_of_the_drawn_ranks():
    rng = np.random.default_rng(1)
    result = RetrievalResult(rng.integers(1, 30, size=41), rng.random(41))
    for weights in [np.ones(41, int), *resamples_of(41, 4), *resamples_of(41, 2, seed=9)]:
        drawn = np.repeat(np.arange(41), weights)
        expected = rank_metrics(result.ranks[drawn])
        expected["mAP@R"] = result.average_precision[drawn].mean()
        found = {m.names[0]: m.value(weights)[0] for m in rank_measures(result)}
        assert found == pytest.approx(expected)


def test_scores_of_each_direction_know_their_n():
    images = np.eye(6)
    groups = np.repeat(np.arange(6), 5)
    found = retrieval_scores(images, images[groups], positives_of_groups(range(6), groups))
    assert found["image_to_text/R@1"] == (1, 1, 1, 6)
    assert found["text_to_image/mAP@R"] == (1, 1, 1, 30)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_embeddings_get_the_worst_ranks(value):
    constant = np.full((20, 7), value, np.float32)
    metrics = retrieval_metrics(constant, constant, [[i] for i in range(20)])
    assert metrics["image_to_text/R@10"] == metrics["text_to_image/R@10"] == 0.0
    assert metrics["image_to_text/median_rank"] == 20


def test_perfect_embeddings_with_five_texts_per_image():
    images = np.eye(4)
    groups = np.repeat(np.arange(4), 5)
    metrics = retrieval_metrics(images, images[groups], positives_of_groups(range(4), groups))
    assert set(metrics.values()) == {1.0}


def test_other_right_answers_do_not_push_a_query_down():
    gallery = np.array([[3.0], [2.0], [1.0], [4.0]])
    assert retrieval_ranks(np.ones((1, 1)), gallery, [[0, 1, 2]]).tolist() == [2]


def test_ranks_do_not_depend_on_the_order_of_the_gallery():
    rng = np.random.default_rng(1)
    queries, gallery, order = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), rng.permutation(9)
    place = np.argsort(order)
    shuffled = retrieval_ranks(queries, gallery[order], [[place[i]] for i in range(9)])
    assert (shuffled == retrieval_ranks(queries, gallery, [[i] for i in range(9)])).all()


def test_positives_turn_around():
    assert positives_of_groups(["a", "b"], ["b", "a", "b"]) == [[1], [0, 2]]
    assert transposed_positives([[1], [0, 2]], 3) == [[1], [0], [1]]


def test_metrics_of_ranks():
    metrics = rank_metrics(np.array([1, 2, 6, 11]))
    assert metrics == {
        "R@1": 0.25,
        "R@5": 0.5,
        "R@10": 0.75,
        "median_rank": 4.0,
        "mean_rank": 5.0,
    }


@pytest.mark.parametrize(
    ("queries", "gallery", "positives", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [[0], [1]], "must be"),
        (np.ones((0, 3)), np.ones((2, 3)), [], "must be"),
        (np.ones((2, 3)), np.ones((2, 3)), [[0]], "2 queries but 1"),
        (np.ones((2, 3)), np.ones((2, 3)), [[0], []], "query 1 has no right answer"),
        (np.ones((2, 3)), np.ones((2, 3)), [[0], [2]], "outside a gallery of 2"),
        (np.full((1, 3), np.nan), np.ones((2, 3)), [[0]], "NaN"),
    ],
)
def test_bad_input(queries, gallery, positives, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(queries, gallery, positives)


@pytest.mark.parametrize("k", [1, 4, 40])
def test_a_second_stage_orders_the_first_items_anew(k):
    rng = np.random.default_rng(8)
    queries, gallery = rng.normal(size=(13, 5)), rng.normal(size=(29, 5))
    positives = [rng.choice(29, size=rng.integers(1, 5), replace=False) for _ in range(13)]
    first = first_candidates(queries, gallery, k)
    assert first.items.shape == (13, min(k, 29))
    second = first._replace(scores=rng.normal(size=first.scores.shape))
    expected, precisions = [], []
    for row, right in enumerate(positives):
        scores = gallery @ queries[row] - 100
        scores[first.items[row]] = second.scores[row]
        order = np.argsort(-scores)
        assert second.first(row).tolist() == order[: min(k, 29)].tolist()
        expected.append(1 + sum(scores > scores[right].max()))
        precisions.append(_average_precision(scores, set(right.tolist())))
    for chunk in (4, 13):
        found = retrieve(queries, gallery, positives, chunk, second=second)
        assert found.ranks.tolist() == expected
        np.testing.assert_allclose(found.average_precision, precisions)


def test_the_best_of_several_vectors_counts_on_either_side():
    rng = np.random.default_rng(9)
    several, single = rng.normal(size=(7, 3, 4)), rng.normal(size=(9, 4))
    whole = np.einsum("nqe,me->nmq", several, single).max(axis=2)
    np.testing.assert_allclose(products(several, single), whole)
    np.testing.assert_allclose(products(single, several), whole.T)
    for queries, gallery, scores in ((several, single, whole), (single, several, whole.T)):
        positives = [[i % 7, 2] for i in range(len(queries))]
        flat = np.eye(scores.shape[1])
        found = retrieve(queries, gallery, positives, 4, 3)
        expected = retrieve(scores, flat, positives)
        assert (found.ranks == expected.ranks).all()
        np.testing.assert_allclose(found.average_precision, expected.average_precision)
