"""Exact search equals NumPy's, on every device, in every metric, however the rows are cut up."""

from functools import lru_cache

import jax
import numpy as np
import pytest

from vlm_jax import sharding
from vlm_jax.memory import SEARCHES, BadMemory, Exact, store
from vlm_jax.memory.exact import best_of

ABOUT = {"fingerprint": "f", "encoder": "none", "data": {}, "of": "image"}


def entries(count):
    return [{"id": str(i // 2), "texts": [f"text {i}"]} for i in range(count)]


@lru_cache
def vectors(count, width=6):
    # Few distinct values, so that many scores are equal.
    return np.random.default_rng(0).integers(-3, 4, (count, width)).astype(np.float32)


def make(folder, count, width=6, shard=1000):
    return store.write(folder, ABOUT, vectors(count, width), entries(count), shard)


def by_numpy(rows, queries, k, metric):
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        rows, queries = (
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (rows, queries)
        )
    scores = queries @ rows.T
    if metric == "euclidean":
        scores = -np.linalg.norm(rows[None] - queries[:, None], axis=2)
    best = -np.sort(-scores, axis=1)[:, :k]
    return scores, -best if metric == "euclidean" else best


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("how", [{}, {"chunk": 1024, "resident": 0}])
def test_hits_are_the_best_of_all_rows(tmp_path, metric, how):
    memory = make(tmp_path, 2500)
    queries = vectors(2500)[:3] + np.float32(0.25)
    hits = Exact(memory, metric=metric, **how)(queries, 7)
    scores, best = by_numpy(vectors(2500), queries, 7, metric)
    np.testing.assert_allclose(hits.scores, best, rtol=1e-6, atol=1e-6)
    own = np.take_along_axis(scores, hits.rows, axis=1)
    np.testing.assert_allclose(own, -best if metric == "euclidean" else best, rtol=1e-6, atol=1e-6)
    assert all(len(set(row)) == 7 for row in hits.rows.tolist())


def test_one_device_and_eight_find_the_same(tmp_path):
    memory = make(tmp_path, 2500)
    single = sharding.make_mesh(devices=jax.devices()[:1])
    queries = vectors(2500)[5:7]
    one, eight = Exact(memory, mesh=single)(queries, 5), Exact(memory)(queries, 5)
    np.testing.assert_array_equal(one.rows, eight.rows)
    np.testing.assert_array_equal(one.scores, eight.scores)


def test_more_queries_than_a_batch_holds_read_each_chunk_once(tmp_path, monkeypatch):
    memory = make(tmp_path, 2500)
    queries = np.concatenate([vectors(2500)[:150] + i for i in range(2)])
    wanted = Exact(memory)(queries, 3)
    read = []
    vectors_of = memory.vectors
    monkeypatch.setattr(memory, "vectors", lambda *at: read.append(at) or vectors_of(*at))
    found = Exact(memory, chunk=1024, resident=0)(queries, 3)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    assert sum(stop - start for start, stop in read) == 2500


def test_the_quick_top_k_is_top_k_with_ties_and_infinities():
    scores = np.random.default_rng(1).integers(0, 9, (4, 1024)).astype(np.float32)
    scores[1, 100:] = -np.inf
    for k in (1, 5, 20):
        values, places = best_of(scores, k)
        wanted, where = jax.lax.top_k(scores, k)
        np.testing.assert_array_equal(values, wanted)
        np.testing.assert_array_equal(places, where)


def test_distances_of_near_twins_far_from_the_origin_keep_their_digits(tmp_path):
    rows = np.full((4, 3), 1000, np.float32)
    rows[:, 0] += [0, 1e-2, 2e-2, 3e-2]
    memory = store.write(tmp_path, ABOUT, rows, entries(4))
    hits = Exact(memory, metric="euclidean")(rows[:1], 4)
    np.testing.assert_allclose(np.sort(hits.scores[0]), rows[:, 0] - 1000, atol=1e-6)
    assert hits.rows[0].tolist() == [0, 1, 2, 3]


def test_every_row_can_be_asked_for_but_no_more(tmp_path):
    memory = make(tmp_path, 5)
    assert sorted(Exact(memory)(vectors(5)[:1], 5).rows[0].tolist()) == [0, 1, 2, 3, 4]
    for k in (0, 6):
        with pytest.raises(BadMemory, match=f"k={k}, but .* has 5 rows: choose k from 1 to 5"):
            Exact(memory)(vectors(5)[:1], k)


def test_broken_queries_and_rows_are_named(tmp_path):
    memory = make(tmp_path / "a", 5)
    search = Exact(memory)
    with pytest.raises(BadMemory, match="query 1 of 2 is not finite"):
        search(np.array([[0] * 6, [np.nan] * 6]), 1)
    with pytest.raises(BadMemory, match="vectors have width 6"):
        search(np.zeros((1, 7)), 1)
    path = store.shard_path(memory.folder, "vectors", 0)
    rows = vectors(5).copy()
    rows[3, 2] = np.nan
    np.save(path, rows)
    with pytest.raises(BadMemory, match="row 3 \\(example '1'\\) is not finite"):
        Exact(store.Memory(memory.folder))(vectors(5)[:1], 2)


def test_no_query_has_no_hits_and_an_unknown_metric_is_named(tmp_path):
    memory = make(tmp_path, 5)
    assert SEARCHES["exact"](memory)(np.zeros((0, 6)), 2).rows.shape == (0, 2)
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        Exact(memory, metric="cosin")
