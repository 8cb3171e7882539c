"""Exact nearest neighbours, compiled: every row is compared, in chunks that bound the memory.

A chunk's rows are split over all devices of the mesh; each keeps its best k, and these are merged.
What takes long on a CPU besides the product is finding the best of a long row of scores. Here only
the largest score of each block of rows is ranked at first: the k best rows lie in the k blocks with
the largest maxima, so that nothing else need be looked at, and nothing is lost.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vlm_jax import sharding
from vlm_jax.memory.similarity import check_queries, factors, prepared, rescored
from vlm_jax.memory.store import Memory

BLOCK = 128
"""Rows whose largest score stands for them at first."""

QUERIES = (1, 8, 64, 256)
"""Sizes of the batches of queries that are compiled; others are filled up to the next one."""

CHUNK = 65_536
"""Most rows of a chunk: the scores of 256 queries then take 64 MiB."""

RESIDENT = 4 << 30
"""Bytes of vectors up to which all chunks stay on the devices; larger memories are streamed."""


class Hits(NamedTuple):
    """What was found, best first. scores: f32[B, k], similarities, or distances for "euclidean".

    rows: i64[B, k], positions in the memory.
    """

    scores: Float[np.ndarray, "B k"]
    rows: Int[np.ndarray, "B k"]


class Best(NamedTuple):
    """The best so far, on the devices. scores: f32[B, k]. rows: i32[B, k]."""

    scores: Float[Array, "B k"]
    rows: Int[Array, "B k"]


class Exact:
    """Compares queries with every row of a memory.

    metric: "cosine", "dot" or "euclidean". mesh: whose devices share the rows; None for all there
    are. chunk: most rows at a time. resident: bytes up to which the vectors stay on the devices.
    recall: below 1.0, the k best are found by `jax.lax.approx_max_k` (arXiv:2206.14286), which is
    quick on TPUs and finds this share of them; elsewhere it is exact, too.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        metric: str = "cosine",
        mesh: Mesh | None = None,
        chunk: int = CHUNK,
        resident: int = RESIDENT,
        recall: float = 1.0,
    ) -> None:
        self.memory, self.metric, self.recall = memory, metric, recall
        self._mesh = sharding.make_mesh() if mesh is None else mesh
        parts = self._mesh.devices.size * BLOCK
        chunks = -(-len(memory) // chunk)
        # Equal chunks, so that no more than one block per device and chunk is filled up in vain.
        self._rows = -(-len(memory) // (chunks * parts)) * parts
        self._place = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        self.resident = None
        if memory.width * len(memory) * 4 <= resident:
            self.resident = list(self._chunks())

    def __call__(self, queries: Float[np.ndarray, "B width"], k: int) -> Hits:
        """The k rows nearest to each query; rows with equal scores in their order.

        BadMemory for a k larger than the memory, a width that is not its, or NaN.
        """
        queries = check_queries(self.memory, queries, k)
        step, starts = _step(self._mesh, k, self.recall), range(0, len(queries), QUERIES[-1])
        asked = [self._placed(queries[start : start + QUERIES[-1]]) for start in starts]
        found = [self._nothing(len(batch), k) for batch in asked]
        # All queries meet a chunk before the next one is read.
        for number, chunk in enumerate(self.resident or self._chunks()):
            start = np.int32(number * self._rows)
            before, pairs = found, zip(found, asked, strict=True)
            found = [step(best, *chunk, batch, start) for best, batch in pairs]
            if self.resident is None:
                jax.block_until_ready(before)  # at most two chunks are held
        rows = [np.asarray(best.rows) for best in found] or [np.zeros((0, k), np.int32)]
        rows = np.concatenate(rows)[: len(queries)].astype(np.int64)
        scores, ordered = np.zeros(rows.shape, np.float32), rows
        for start in starts:
            part = slice(start, start + QUERIES[-1])
            scored = rescored(self.memory, queries[part], rows[part], self.metric)
            scores[part], ordered[part] = scored
        return Hits(scores, ordered)

    def _placed(self, queries: np.ndarray) -> Array:
        """Queries as the devices compare them, filled up to one of QUERIES."""
        size = next(size for size in QUERIES if len(queries) <= size)
        filled = np.zeros((size, self.memory.width), np.float32)
        filled[: len(queries)] = prepared(queries, self.metric)
        return jax.device_put(filled, sharding.replicated(self._mesh))

    def _nothing(self, size: int, k: int) -> Any:
        """The best of no rows."""
        scores = np.full((size, k), -np.inf, np.float32)
        rows = np.full((size, k), len(self.memory), np.int32)
        # One program for every chunk, for which the first input must lie where later ones do.
        return Best(*jax.device_put((scores, rows), sharding.replicated(self._mesh)))

    def _chunks(self) -> Iterator[tuple[Array, Array, Array]]:
        """Vectors [R, D], and scale and offset [R] of their scores; what fills the last one up
        scores -inf.
        """
        for start in range(0, len(self.memory), self._rows):
            stop = min(start + self._rows, len(self.memory))

            def part(index: Any, start: int = start, stop: int = stop) -> np.ndarray:
                begin, end, _ = index[0].indices(self._rows)
                read = self.memory.vectors(min(start + begin, stop), min(start + end, stop))
                if len(read) == end - begin:
                    return read
                filler = np.zeros((end - begin - len(read), read.shape[1]), np.float32)
                return np.concatenate([read, filler])

            shape = (self._rows, self.memory.width)
            vectors = jax.make_array_from_callback(shape, self._place, part, dtype=np.float32)
            real = np.int32(stop - start)
            yield (vectors, *_factors(vectors, real, self.metric))


@lru_cache(maxsize=32)
def _step(mesh: Mesh, k: int, recall: float) -> Any:
    """(best, vectors, scale, offset, queries, start) -> best: one chunk's part of a search."""
    axes = mesh.axis_names
    rows, whole = PartitionSpec(axes), PartitionSpec()

    def local(best: Best, vectors: Any, scale: Any, offset: Any, queries: Any, start: Any) -> Best:
        product = jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)
        scores = product * scale[None] + offset[None]  # [B, R]
        values, found = best_of(scores, min(k, scores.shape[1]), recall)
        found += start + jax.lax.axis_index(axes) * scores.shape[1]
        # Every device's best side by side, in the order of rows.
        values, found = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (values, found))
        values = jnp.concatenate([best.scores, values], axis=1)
        values, chosen = jax.lax.top_k(values, k)
        every = jnp.concatenate([best.rows, found], axis=1)
        return Best(values, jnp.take_along_axis(every, chosen, axis=1))

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, rows, rows, rows, whole, whole),
        out_specs=whole,
        check_vma=False,  # what was gathered and merged is equal everywhere
    )
    return jax.jit(mapped)


@partial(jax.jit, static_argnames="metric")
def _factors(vectors: Float[Array, "R D"], real: Any, metric: str) -> tuple[Array, Array]:
    """Scale and offset f32[R] of the scores of a chunk with so many real rows."""
    scale, offset = factors(vectors, metric)
    return scale, jnp.where(jnp.arange(len(vectors)) < real, offset, -jnp.inf)


def best_of(
    scores: Float[Array, "B R"], k: int, recall: float = 1.0
) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """The k largest scores of each row, best first, and their places; the first of equal ones.

    recall: as for Exact. The same as `jax.lax.top_k` but for the time it takes on a CPU.
    """
    if recall < 1.0:
        return jax.lax.approx_max_k(scores, k, recall_target=recall)
    batch, rows = scores.shape
    if rows % BLOCK or rows // BLOCK <= k:
        values, found = jax.lax.top_k(scores, k)
        return values, found.astype(jnp.int32)
    blocks = scores.reshape(batch, rows // BLOCK, BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=2), k)
    chosen = jnp.sort(chosen, axis=1)  # so that the first of equal scores wins below, too
    candidates = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1)  # [B, k, BLOCK]
    values, place = jax.lax.top_k(candidates.reshape(batch, k * BLOCK), k)
    block = jnp.take_along_axis(chosen, place // BLOCK, axis=1)
    return values, (block * BLOCK + place % BLOCK).astype(jnp.int32)
