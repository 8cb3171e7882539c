"""Scores prediction files of any system; `vlm_jax.metrics.files` describes the formats.

    python -m vlm_jax.metrics PREDICTIONS REFERENCES [--training FILE] [--json]
    python -m vlm_jax.metrics compare A B REFERENCES [--json]

Prints a table; with --json the last line is one JSON object. A mistake in a file is one line on
standard error and exit status 2.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from vlm_jax.metrics.bootstrap import LEVEL, RESAMPLES, Comparison
from vlm_jax.metrics.scoring import FileScores, compare, score_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, rest = (
        (_compare, arguments[1:]) if arguments[:1] == ["compare"] else (_score, arguments)
    )
    try:
        command(rest)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _score(arguments: Sequence[str]) -> None:
    parser = _parser("python -m vlm_jax.metrics", "predictions", "references")
    parser.add_argument("--training", help="captions learnt from, for the share of novel ones")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    found = score_file(**options)
    print("\n".join(score_table(found)))
    if as_json:
        scores = {name: one._asdict() for name, one in found.scores.items()}
        print(json.dumps({**found._asdict(), "scores": scores}, ensure_ascii=False))


def _compare(arguments: Sequence[str]) -> None:
    options = vars(
        _parser("python -m vlm_jax.metrics compare", "a", "b", "references").parse_args(arguments)
    )
    as_json = options.pop("json")
    found = compare(**options)
    print("\n".join(comparison_table(found)))
    if as_json:
        print(json.dumps({name: one._asdict() for name, one in found.items()}, ensure_ascii=False))


def _parser(program: str, *files: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description="Scores prediction files.")
    for name in files:
        parser.add_argument(name, help="a file")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--no-meteor", dest="meteor", action="store_false", help="METEOR is slow")
    parser.add_argument("--allow-empty", action="store_true", help="score empty predictions")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    return parser


def score_table(found: FileScores) -> list[str]:
    """The lines of a table: metric, value, interval, n; and what is absent."""
    width = max(map(len, [*found.scores, *found.absent]))
    lines = [f"{'metric':{width}}  {'value':>10}  {f'{LEVEL:.0%} interval':>23}  {'n':>7}"]
    for name, (value, low, high, n) in found.scores.items():
        lines.append(f"{name:{width}}  {value:10.4f}  [{low:10.4f}, {high:10.4f}]  {n:7d}")
    return lines + [f"{name:{width}}      absent  {why}" for name, why in found.absent.items()]


def comparison_table(found: Mapping[str, Comparison]) -> list[str]:
    """The lines of a table: metric, both values, difference b - a, its interval, p, n."""
    width = max(map(len, found))
    head = f"{'metric':{width}}  {'a':>10}  {'b':>10}  {'b - a':>10}  {f'{LEVEL:.0%} interval':>23}"
    lines = [f"{head}  {'p':>6}  {'n':>7}"]
    for name, (a, b, difference, low, high, p, n) in found.items():
        lines.append(
            f"{name:{width}}  {a:10.4f}  {b:10.4f}  {difference:+10.4f}  "
            f"[{low:+10.4f}, {high:+10.4f}]  {p:6.4f}  {n:7d}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
