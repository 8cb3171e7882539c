"""The pointing game: do maps that explain an answer or a caption point at what it is about?

    python -m benchmarks.pointing --workdir=runs/quickstart [--examples 200] [--objects 3] [--json]

Scenes with known boxes that the run has not seen, answers and caption words that it got right. A
method is worth something if it hits more often than the centre of a random object, which needs no
understanding of the words, and if the same method on random parameters does not. Intervals are
95 % bootstrap intervals over scenes. With --json the last line is one JSON object; with --docs the
run's section of that page is written, too.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import vlm_jax
from benchmarks import sections
from vlm_jax.data.scenes import Scenes
from vlm_jax.insight import METHODS, pointing
from vlm_jax.insight.pointing import Result

HEAD = """\
# Where maps point, measured

The share of maps whose hottest point lies on the object that a word or an answer is about, of cases
that the model got right; in brackets 95 % bootstrap intervals. A method is worth something above
the centre of a random object, and if it fails on random parameters. Each section was written by the
command in it, which replaces that section alone. quickstart is a run of configs/quickstart.py,
quickstart_vit one of configs/quickstart.py:vision=vit.
"""


def page(given: argparse.Namespace, tables: Mapping[str, Mapping[str, Result]]) -> str:
    """The section of one run: a table for each task, methods beside their randomised selves."""
    name = Path(given.workdir).name
    options = f"--examples {given.examples} --objects {given.objects}"
    parts = [
        f"## {name}",
        f"    python -m benchmarks.pointing --workdir=runs/{name} {options} --docs {given.docs}",
    ]
    for task, rows in tables.items():
        count = next(iter(rows.values())).n
        shown = lambda found: (
            "" if found is None else f"{found.hits:.3f} ({found.low:.3f}, {found.high:.3f})"
        )
        lines = [
            (row, shown(found), shown(rows.get(f"{row}, randomised")))
            for row, found in rows.items()
            if not row.endswith("randomised")
        ]
        parts += [f"{task}, n = {count}", sections.table(("by", "hits", "randomised"), lines)]
    return "\n\n".join(parts)


def main() -> None:
    """Print a table for each thing that the run can be asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/quickstart")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument(
        "--tasks", nargs="+", help="of the run; all that answer or caption if left out"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--docs", help="such as docs/pointing.md")
    given = parser.parse_args()
    model, tables = vlm_jax.load(given.workdir), {}
    size = model.run.experiment.read.size
    source = Scenes("test", size, given.examples, (given.objects, given.objects), seed=7)
    made = {"answer": pointing.answer_cases, "prompt": pointing.caption_cases}
    for name, task in model.run.experiment.tasks.items():
        for ability, cases_of in made.items():
            if hasattr(task, ability) and name in (given.tasks or [name]):
                cases = cases_of(model, source)
                print(f"{Path(given.workdir).name}: {name}, {len(cases)} of {given.examples}")
                tables[name] = {}
                for row, found in pointing.play(model, name, cases, given.methods):
                    tables[name][row] = found
                    interval = f"[{found.low:.3f}, {found.high:.3f}]"
                    print(f"  {row:38} {found.hits:.3f} {interval}", flush=True)
    if given.docs:
        sections.write(Path(given.workdir).name, page(given, tables), given.docs, HEAD)
    if given.json:
        rows = {name: {k: v._asdict() for k, v in t.items()} for name, t in tables.items()}
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
