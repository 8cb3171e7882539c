"""FAISS finds what the exact search finds, as far as its indices promise it."""

import sys

import numpy as np
import pytest

from vlm_jax.memory import SEARCHES, BadMemory, Exact, Faiss, store

ABOUT = {"fingerprint": "f", "encoder": "none", "data": {}, "of": "image"}
ROWS = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    entries = [{"id": str(i), "texts": []} for i in range(len(ROWS))]
    return store.write(tmp_path_factory.mktemp("memory"), ABOUT, ROWS, entries)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_flat_equals_exact(memory, metric):
    exact, flat = Exact(memory, metric=metric), SEARCHES["faiss"](memory, metric=metric)
    wanted, found = exact(ROWS[:5] + 0.1, 6), flat(ROWS[:5] + 0.1, 6)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_indices_find_most_of_it_and_are_kept(memory, kind, metric):
    wanted = Exact(memory, metric=metric)(ROWS[:40] + 0.1, 5).rows
    options = {"kind": kind, "metric": metric, "lists": 8, "probes": 4}
    found = [Faiss(memory, **options)(ROWS[:40] + 0.1, 5).rows for _ in range(2)]
    np.testing.assert_array_equal(*found)  # the second one was read from its file
    hits = [len({*a} & {*b}) / 5 for a, b in zip(wanted.tolist(), found[0].tolist(), strict=True)]
    assert np.mean(hits) > 0.75
    assert list(memory.folder.glob(f"faiss-{kind}-{metric}-*.index"))


def test_what_a_list_does_not_hold_is_marked(memory):
    few = Faiss(memory, kind="ivf", lists=15, probes=1, metric="euclidean")(ROWS[:2], 300)
    assert few.rows[0, 0] == 0 and few.rows[0, -1] == -1 and np.isinf(few.scores[0, -1])
    assert (np.diff(few.scores[0][few.rows[0] >= 0]) >= 0).all()


def test_errors_are_those_of_the_exact_search(memory, monkeypatch):
    with pytest.raises(BadMemory, match="choose k from 1 to 600"):
        Faiss(memory)(ROWS[:1], 601)
    with pytest.raises(ValueError, match="did you mean 'hnsw'"):
        Faiss(memory, kind="hnws")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        Faiss(memory)
