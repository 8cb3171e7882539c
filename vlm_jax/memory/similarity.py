"""What "near" means: cosine, dot product, Euclidean distance.

All three rank rows by scale * (query . row) + offset with two numbers per row, so that one compiled
search serves them all. What was found is then scored anew in double precision, because that form
loses digits where distances are small beside the vectors.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.kwargs import lookup
from vlm_jax.memory.store import BadMemory, Memory

TINY = 1e-30
"""Keeps the cosine of a vector of zeros at zero."""


def check_queries(memory: Memory, queries: Any, k: int) -> Float[np.ndarray, "B width"]:
    """The queries as f32[B, width]; BadMemory for NaN, another width, or a k that is not in
    [1, len(memory)].
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != memory.width:
        raise BadMemory(
            f"queries of shape {list(queries.shape)} do not fit {memory.folder}, whose vectors "
            f"have width {memory.width}: embed them with the model that made it"
        )
    if not 1 <= k <= len(memory):
        raise BadMemory(
            f"k={k}, but {memory.folder} has {len(memory)} rows: choose k from 1 to {len(memory)}"
        )
    bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(bad):
        raise BadMemory(f"query {bad[0]} of {len(queries)} is not finite: its embedding is broken")
    return queries


def prepared(queries: Float[np.ndarray, "B width"], metric: str) -> np.ndarray:
    """The queries as the product is to see them: of length 1 for cosines."""
    if metric != "cosine":
        return queries
    return queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), TINY)


def factors(vectors: Any, metric: str) -> tuple[Any, Any]:
    """Scale and offset [rows] of the vectors' scores; for NumPy and JAX arrays. ValueError for an
    unknown metric.
    """
    squared = (vectors * vectors).sum(axis=1)
    return lookup(_FACTORS, metric, "metric")(squared)


_FACTORS = {
    "cosine": lambda squared: ((squared + TINY) ** -0.5, 0 * squared),
    "dot": lambda squared: (0 * squared + 1, 0 * squared),
    "euclidean": lambda squared: (0 * squared + 2, -squared),
}
METRICS = tuple(_FACTORS)


def rescored(
    memory: Memory,
    queries: Float[np.ndarray, "B width"],
    rows: Int[np.ndarray, "B k"],
    metric: str,
) -> tuple[Float[np.ndarray, "B k"], Int[np.ndarray, "B k"]]:
    """Scores of found rows in double precision, and the rows in their order: best first, equal
    ones by position. BadMemory if a row is not finite.
    """
    found = memory.take(rows).astype(np.float64)  # [B, k, width]
    bad = np.argwhere(~np.isfinite(found).all(axis=2))
    if len(bad):
        row = int(rows[tuple(bad[0])])
        raise BadMemory(
            f"{memory.folder}: row {row} (example {memory.entry(row)['id']!r}) is not finite: "
            "delete the folder and build it again with --mode=index"
        )
    asked = prepared(queries, metric).astype(np.float64)[:, None]
    if metric == "euclidean":
        scores = np.linalg.norm(found - asked, axis=2)
        order = np.lexsort((rows, scores), axis=1)
    else:
        scores = (found * asked).sum(axis=2)
        if metric == "cosine":
            scores = scores / np.maximum(np.linalg.norm(found, axis=2), TINY)
        order = np.lexsort((rows, -scores), axis=1)
    scores, rows = (np.take_along_axis(x, order, axis=1) for x in (scores, rows))
    return scores.astype(np.float32), rows
