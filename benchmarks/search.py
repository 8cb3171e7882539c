"""The memory's exact search against FAISS flat and against the matrix product that bounds both.

    pip install faiss-cpu              # once; not a dependency of vlm_jax
    python -m benchmarks.search [--rows 100000 1000000] [--queries 1 256] [--rounds 5] [--json]
        [--approximate] [--only-approximate] [--docs docs/retrieval.md]

Random unit vectors of width 384, k = 10, all in memory. The three sides run in turn, round by
round; what is printed are the best times of each, and the ratios within them. `bound` is the
product of queries and rows alone, under jit, chunk by chunk as the search does it; `one_line` is
`jax.lax.top_k(queries @ rows.T, 10)`. The hits of the exact search and of FAISS flat are compared,
too. With --approximate, recall@10 and time of IVF, HNSW and `jax.lax.approx_max_k`, on the random
vectors and on as many in clusters, where lists and graphs have something to hold on to. The last
line is one JSON object.
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

from benchmarks import sections
from vlm_jax.memory import Exact, Faiss, Memory, Writer

WIDTH, K, SHARD, CLUSTERS, SPREAD = 384, 10, 100_000, 1000, 0.05


def drawn(rng: np.random.Generator, count: int, clustered: bool) -> np.ndarray:
    """Random unit vectors f32[count, WIDTH]; clustered: near one of CLUSTERS centres, the cosine
    to which is about 0.7.
    """
    part = rng.standard_normal((count, WIDTH), np.float32)
    if clustered:
        centres = np.random.default_rng(7).standard_normal((CLUSTERS, WIDTH), np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        part = centres[rng.integers(CLUSTERS, size=count)] + SPREAD * part
    return part / np.linalg.norm(part, axis=1, keepdims=True)


def make_memory(folder: str, rows: int, clustered: bool = False) -> Memory:
    """A memory of random unit vectors."""
    rng = np.random.default_rng(0)
    writer = Writer(folder, {"fingerprint": "random", "encoder": "none", "data": {}, "of": "image"})
    for start in range(0, rows, SHARD):
        part = drawn(rng, min(SHARD, rows - start), clustered)
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


APPROXIMATE: dict[str, Callable[[Memory], Any]] = {
    "exact": Exact,
    "faiss ivf, 16 lists": lambda memory: Faiss(memory, kind="ivf"),
    "faiss ivf, 64 lists": lambda memory: Faiss(memory, kind="ivf", probes=64),
    "faiss hnsw": lambda memory: Faiss(memory, kind="hnsw"),
    "approx_max_k, recall 0.95": lambda memory: Exact(memory, recall=0.95),
}
"""What is compared with the exact search."""


def approximate(memory: Memory, clustered: bool, batch: int = 256) -> list[dict[str, Any]]:
    """Recall@10 and seconds of the approximate searches, beside seconds to build them."""
    queries = drawn(np.random.default_rng(2), batch, clustered)
    true, found = np.zeros((batch, K), np.int64), []
    for kind, make in APPROXIMATE.items():
        start = time.perf_counter()
        search = make(memory)
        built = time.perf_counter() - start
        search(queries, K)  # compiles
        start = time.perf_counter()
        hits = search(queries, K).rows
        seconds = time.perf_counter() - start
        true = hits if kind == "exact" else true
        recall = np.mean([len({*a} & {*b}) / K for a, b in zip(true, hits, strict=True)])
        row = {"kind": kind, "vectors": "clusters" if clustered else "random"}
        row |= {"rows": len(memory), "queries": batch, "recall@10": round(float(recall), 4)}
        found.append(row | {"seconds": round(seconds, 4), "build_seconds": round(built, 2)})
    return found


def page(report: dict[str, Any], command: str) -> str:
    """The report as Markdown."""
    parts = [f"## Searching {WIDTH}-d vectors, the {K} nearest\n\n    {command}\n"]
    for name in ("exact", "approximate"):
        if report[name]:
            lines = [list(row.values()) for row in report[name]]
            parts.append(sections.table(list(report[name][0]), lines) + "\n")
    return "\n".join(parts)


def compared(rows: int, given: argparse.Namespace, report: dict[str, Any]) -> None:
    """Adds what is found with so many rows to the report, and prints it."""
    with tempfile.TemporaryDirectory() as name:
        if not given.only_approximate:
            memory = make_memory(str(Path(name) / "memory"), rows)
            exact, flat = Exact(memory), Faiss(memory)
            for batch in given.queries:
                report["exact"].append(measure(memory, batch, given.rounds, exact, flat))
                if not given.json:
                    print(report["exact"][-1], flush=True)
        for clustered in (False, True) if given.approximate or given.only_approximate else ():
            memory = make_memory(str(Path(name) / f"approximate{clustered}"), rows, clustered)
            for row in approximate(memory, clustered):
                report["approximate"].append(row)
                if not given.json:
                    print(row, flush=True)


def main() -> None:
    """Measure, print a line each, and one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--only-approximate", action="store_true")
    parser.add_argument("--docs", help="a page in which to write the tables")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    given = parser.parse_args()
    report: dict[str, Any] = {"width": WIDTH, "k": K, "exact": [], "approximate": []}
    for rows in given.rows:
        try:
            compared(rows, given, report)
        except ImportError as error:
            sys.exit(str(error))
    if given.docs:
        command = f"python -m benchmarks.search {' '.join(sys.argv[1:])}"
        sections.write("search", page(report, command), given.docs)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
