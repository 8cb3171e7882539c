"""The memory's exact search against FAISS flat and against the matrix product that bounds both.

    pip install faiss-cpu              # once; not a dependency of vlm_jax
    python -m benchmarks.search [--rows 100000 1000000] [--queries 1 256] [--rounds 5] [--json]

Random unit vectors of width 384, k = 10, all in memory. The three sides run in turn, round by
round; what is printed are the best times of each, and the ratios within them. `bound` is the
product of queries and rows alone, under jit, chunk by chunk as the search does it; `one_line` is
`jax.lax.top_k(queries @ rows.T, 10)`. With --approximate, recall@10 and time of IVF and HNSW. The
hits of the exact search and of FAISS flat are compared, too. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_jax.memory import Exact, Faiss, Memory, Writer

WIDTH, K, SHARD = 384, 10, 100_000


def make_memory(folder: str, rows: int) -> Memory:
    """A memory of random unit vectors."""
    rng = np.random.default_rng(0)
    writer = Writer(folder, {"fingerprint": "random", "encoder": "none", "data": {}, "of": "image"})
    for start in range(0, rows, SHARD):
        part = rng.standard_normal((min(SHARD, rows - start), WIDTH), np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        writer.write(part, [{"id": str(start + i), "texts": []} for i in range(len(part))])
    return writer.finish()


def in_turn(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The best seconds of each side; the first call of each, which compiles, does not count."""
    best = dict.fromkeys(sides, float("inf"))
    for function in sides.values():
        jax.block_until_ready(function())
    for _ in range(rounds):
        for name, function in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(memory: Memory, batch: int, rounds: int, exact: Exact, flat: Faiss) -> dict[str, Any]:
    """Seconds and ratios for one number of rows and of queries."""
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((batch, WIDTH)).astype(np.float32)
    chunks = [chunk[0] for chunk in exact.resident or []]
    product = jax.jit(lambda rows, queries: queries @ rows.T)
    one_line = jax.jit(lambda rows, queries: jax.lax.top_k(queries @ rows.T, K))
    placed = jax.device_put(queries)
    each = lambda function: [function(chunk, placed) for chunk in chunks]

    def bound() -> None:
        for chunk in chunks:  # one at a time, as the search has it, or the scores fill the memory
            product(chunk, placed).block_until_ready()

    sides = {
        "exact": lambda: exact(queries, K).rows,
        "faiss": lambda: flat(queries, K).rows,
        "bound": bound,
        "one_line": lambda: each(one_line),
    }
    best = in_turn(sides, rounds)
    same = np.mean(exact(queries, K).rows == flat(queries, K).rows)
    ratios = {"faiss_by_exact": best["faiss"] / best["exact"]}
    ratios["exact_by_bound"] = best["exact"] / best["bound"]
    found = {"rows": len(memory), "queries": batch, "same_hits": float(same)}
    return found | {name: round(value, 5) for name, value in {**best, **ratios}.items()}


def approximate(memory: Memory, exact: Exact, batch: int = 256) -> list[dict[str, Any]]:
    """Recall@10 and seconds of the approximate indices, beside seconds to build them. Random
    vectors have no clusters, which is as hard as it gets for them.
    """
    queries = np.random.default_rng(2).standard_normal((batch, WIDTH)).astype(np.float32)
    true, found = exact(queries, K).rows, []
    for kind in ("ivf", "hnsw"):
        start = time.perf_counter()
        index = Faiss(memory, kind=kind)
        built = time.perf_counter() - start
        start = time.perf_counter()
        hits = index(queries, K).rows
        seconds = time.perf_counter() - start
        recall = np.mean([len({*a} & {*b}) / K for a, b in zip(true, hits, strict=True)])
        row = {"kind": kind, "rows": len(memory), "queries": batch, "recall@10": float(recall)}
        found.append(row | {"seconds": round(seconds, 4), "build_seconds": round(built, 2)})
    return found


def main() -> None:
    """Measure, print a line each, and one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    given = parser.parse_args()
    report: dict[str, Any] = {"width": WIDTH, "k": K, "exact": [], "approximate": []}
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as name:
            try:
                memory = make_memory(str(Path(name) / "memory"), rows)
                exact, flat = Exact(memory), Faiss(memory)
            except ImportError as error:
                sys.exit(str(error))
            for batch in given.queries:
                report["exact"].append(measure(memory, batch, given.rounds, exact, flat))
                if not given.json:
                    print(report["exact"][-1], flush=True)
            if given.approximate:
                report["approximate"] += approximate(memory, exact)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
