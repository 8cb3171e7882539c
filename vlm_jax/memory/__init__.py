"""The retrieval memory: vectors on disk with ids and texts, searched exactly or with FAISS.

memory = Memory("runs/x/memory")
hits = SEARCHES["exact"](memory, metric="cosine")(queries, k=4)
memory.entry(hits.rows[0, 0])["texts"]
"""

from vlm_jax.memory.exact import Exact, Hits
from vlm_jax.memory.host import Faiss
from vlm_jax.memory.store import BadMemory, Entry, Memory, Writer, write

__all__ = ["SEARCHES", "BadMemory", "Entry", "Exact", "Faiss", "Hits", "Memory", "Writer", "write"]

SEARCHES = {"exact": Exact, "faiss": Faiss}
"""Backends: `(memory, *, metric, ...)` makes a function `(queries f32[B, width], k) -> Hits`."""
