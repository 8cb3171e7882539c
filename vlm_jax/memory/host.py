"""FAISS (arXiv:2401.08281) behind the interface of `Exact`: flat, inverted lists, HNSW graphs.

On the host, from the optional package faiss-cpu; an index that took long to build is kept in the
memory's folder.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.kwargs import lookup
from vlm_jax.memory.exact import Hits
from vlm_jax.memory.similarity import METRICS, TINY, check_queries, prepared, rescored
from vlm_jax.memory.store import Memory
from vlm_jax.workdir import atomic_write_bytes

BATCH = 65_536
"""Rows added to an index at a time."""


class Faiss:
    """Searches a memory with FAISS.

    kind: "flat" compares all rows, "ivf" those in the `probes` lists nearest to the query of
    `lists` (None: 4 sqrt(rows)), "hnsw" follows a graph of `links` per row with `effort` open ends
    (arXiv:1603.09320). metric: as for Exact. ImportError, saying what to install, without faiss.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        metric: str = "cosine",
        kind: str = "flat",
        lists: int | None = None,
        probes: int = 16,
        links: int = 32,
        effort: int = 128,
    ) -> None:
        self.memory, self.metric = memory, metric
        lookup(dict.fromkeys(METRICS), metric, "metric")
        make = lookup(_KINDS, kind, "kind")
        # A list needs some forty rows to have a meaningful centre.
        most = max(1, len(memory) // 40)
        count = lists or min(max(1, int(4 * math.sqrt(len(memory)))), most)
        self._options = {"lists": count, "probes": probes, "links": links, "effort": effort}
        self._faiss = _faiss()
        self._index = self._load(kind, make)
        if kind == "ivf":
            self._index.nprobe = min(probes, count)
        if kind == "hnsw":
            self._index.hnsw.efSearch = effort

    def __call__(self, queries: Float[np.ndarray, "B width"], k: int) -> Hits:
        """The k rows that FAISS finds for each query; errors as those of `Exact`.

        A graph or a few lists may hold fewer than k: then the places left have row -1.
        """
        queries = check_queries(self.memory, queries, k)
        _, rows = self._index.search(np.ascontiguousarray(prepared(queries, self.metric)), k)
        rows = rows.astype(np.int64)
        scores, ordered = rescored(self.memory, queries, np.maximum(rows, 0), self.metric)
        if (rows >= 0).all():
            return Hits(scores, ordered)
        return _without_gaps(self, queries, rows)

    def _load(self, kind: str, make: Any) -> Any:
        """The index kept from before, or a new one."""
        numbers = [self._options[name] for name in _DEPENDS[kind]]
        name = "-".join(["faiss", kind, self.metric, *map(str, numbers), self.memory.digest])
        path = self.memory.folder / f"{name}.index"
        if kind != "flat" and path.exists():
            return self._faiss.read_index(str(path))
        index = make(self._faiss, self.memory.width, self.metric, self._options)
        if kind == "ivf":
            index.train(self._rows(0, min(len(self.memory), 64 * self._options["lists"])))
        for start in range(0, len(self.memory), BATCH):
            index.add(self._rows(start, min(start + BATCH, len(self.memory))))
        if kind != "flat":  # which is as large as the vectors and takes no time to build
            atomic_write_bytes(path, self._faiss.serialize_index(index).tobytes())
        return index

    def _rows(self, start: int, stop: int) -> np.ndarray:
        rows = np.ascontiguousarray(self.memory.vectors(start, stop))
        if self.metric == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
        return rows


def _without_gaps(search: Faiss, queries: np.ndarray, rows: np.ndarray) -> Hits:
    """Hits of which some are missing: each query's found rows scored, the gaps at the end."""
    worst = np.inf if search.metric == "euclidean" else -np.inf
    scores = np.full(rows.shape, worst, np.float32)
    placed = np.full(rows.shape, -1, np.int64)
    for i, found in enumerate(rows):
        real = found[found >= 0][None]
        if real.size:
            score, ordered = rescored(search.memory, queries[i : i + 1], real, search.metric)
            scores[i, : real.size], placed[i, : real.size] = score[0], ordered[0]
    return Hits(scores, placed)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "searching with FAISS needs an optional package: pip install faiss-cpu, or choose the "
            'search "exact"'
        ) from error
    return faiss


def _flat(faiss: Any, width: int, metric: str, options: Any) -> Any:
    return faiss.IndexFlatL2(width) if metric == "euclidean" else faiss.IndexFlatIP(width)


def _ivf(faiss: Any, width: int, metric: str, options: Any) -> Any:
    near = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    coarse = _flat(faiss, width, metric, options)
    index = faiss.IndexIVFFlat(coarse, width, options["lists"], near)
    index.own_fields = True
    coarse.this.disown()
    return index


def _hnsw(faiss: Any, width: int, metric: str, options: Any) -> Any:
    near = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    return faiss.IndexHNSWFlat(width, options["links"], near)


_KINDS = {"flat": _flat, "ivf": _ivf, "hnsw": _hnsw}
_DEPENDS = {"flat": (), "ivf": ("lists",), "hnsw": ("links",)}
