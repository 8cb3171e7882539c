"""Losses that hold no whole matrix against those that do: memory, and time where both fit.

    python -m benchmarks.losses [--rows 1024,...,65536] [--timed 4096] [--rounds 3] [--json]

The contrastive losses of B pairs of 512 numbers, values and gradients, on one device, with all
B x B scores and in tiles of 1,024 x 1,024. Then the cross-entropy of tokens over 257,152 words, 256
numbers each, with all scores and with those of 8,192 words at a time. Memory is that of the
temporaries of the compiled program, which needs no run; the power of B with which it grows is
fitted to the last two sizes. Seconds are of programs that run in turn, for at most so many rows. A
ratio is whole by blocked, so higher is better. With --json the last line is one JSON object
{"softmax": {"growth": ..., "rows": {"1024": {"whole_mib", "tiles_mib", ...}}}, ...}.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vlm_jax import losses

WIDTH, CHUNK = 512, 1024
WORDS, STATE, BLOCK = 257_152, 256, 8192


def contrastive(name: str, chunk: int | None) -> Callable:
    """Value and gradients of the mean loss of (image, text)."""
    more = (jnp.float32(10.0),) + ((jnp.float32(-10.0),) if name == "sigmoid" else ())
    loss = {"softmax": losses.contrastive_softmax, "sigmoid": losses.contrastive_sigmoid}[name]
    return jax.value_and_grad(lambda *x: loss(*x, *more, chunk=chunk).mean(), (0, 1))


def vocabulary(block: int | None) -> Callable:
    """Value and gradients of the mean loss of (states, table), every target the first word."""

    def loss(states: jax.Array, table: jax.Array) -> jax.Array:
        words = losses.Unembedding(states, table)
        targets = jnp.zeros(states.shape[:2], jnp.int32)
        batch = {"targets": targets, "targets_mask": targets == 0}
        outputs = {"logits": words.logits()} if block is None else {"words": words}
        return losses.written_cross_entropy(outputs, batch, block=block).mean()

    return jax.value_and_grad(loss, (0, 1))


def inputs(name: str, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of what a loss reads; rows: pairs, or tokens."""
    if name == "vocabulary":
        return _shape(rows // 128, 128, STATE), _shape(WORDS, STATE)
    return _shape(rows, WIDTH), _shape(rows, WIDTH)


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def programs(name: str, rows: int) -> dict[str, Any]:
    """Compiled programs, whole and in parts."""
    make = {"vocabulary": vocabulary}.get(name, lambda size: contrastive(name, size))
    sizes = {"whole": None, "tiles": BLOCK if name == "vocabulary" else CHUNK}
    given = inputs(name, rows)
    return {kind: jax.jit(make(size)).lower(*given).compile() for kind, size in sizes.items()}


def seconds(compiled: dict[str, Any], name: str, rows: int, rounds: int) -> dict[str, float]:
    """Medians of runs in turn."""
    keys = jax.random.split(jax.random.key(0))
    draw = lambda key, x: jax.random.normal(key, x.shape) / math.sqrt(x.shape[-1])
    given = [draw(key, x) for key, x in zip(keys, inputs(name, rows), strict=True)]
    times: dict[str, list[float]] = {kind: [] for kind in compiled}
    for turn in range(rounds + 1):
        for kind, program in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            times[kind] += [time.perf_counter() - start] if turn else []
    return {kind: statistics.median(found) for kind, found in times.items()}


def measure(name: str, rows: int, timed: int, rounds: int) -> dict[str, float]:
    """Memory in MiB and, for at most `timed` rows, seconds."""
    compiled = programs(name, rows)
    found = {
        f"{kind}_mib": program.memory_analysis().temp_size_in_bytes / 2**20
        for kind, program in compiled.items()
    }
    if rows <= timed:
        times = seconds(compiled, name, rows, rounds)
        found |= {f"{kind}_seconds": value for kind, value in times.items()}
        found["time_ratio"] = times["whole"] / times["tiles"]
    return found | {"memory_ratio": found["whole_mib"] / found["tiles_mib"]}


def growth(table: dict[int, dict[str, float]], kind: str) -> float:
    """The power of the number of rows with which memory grows between the last two."""
    (less, first), (more, last) = list(table.items())[-2:]
    return math.log(last[kind] / first[kind]) / math.log(more / less)


def main() -> None:
    """Print a table for each loss."""
    parser = argparse.ArgumentParser(description="Losses in parts against whole ones.")
    parser.add_argument("--rows", default="1024,2048,4096,8192,16384,32768,65536")
    parser.add_argument("--timed", type=int, default=4096, help="most rows that are also run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    report: dict[str, Any] = {}
    for name in ("softmax", "sigmoid", "vocabulary"):
        scale = 8 if name == "vocabulary" else 1  # one token has a thousand times a pair's scores
        table = {}
        print(f"\n{name}: temporaries in MiB")
        for rows in (int(text) // scale for text in given.rows.split(",")):
            timed = given.timed // (16 if name == "vocabulary" else 1)
            found = table[rows] = measure(name, rows, timed, given.rounds)
            line = (
                f"{rows:6} rows  whole {found['whole_mib']:10.1f}  parts {found['tiles_mib']:8.1f}"
            )
            line += f"  ratio {found['memory_ratio']:7.1f}"
            if "time_ratio" in found:
                line += f"  seconds {found['whole_seconds']:.3f} and {found['tiles_seconds']:.3f}"
                line += f", ratio {found['time_ratio']:.2f}"
            print(line, flush=True)
        powers = {kind: growth(table, f"{kind}_mib") for kind in ("whole", "tiles")}
        print("memory grows with the power {whole:.2f}, in parts {tiles:.2f}".format(**powers))
        report[name] = {"growth": powers["tiles"], "growth_whole": powers["whole"], "rows": table}
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
