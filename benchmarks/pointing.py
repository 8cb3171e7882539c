"""The pointing game: do maps that explain an answer or a caption point at what it is about?

    python -m benchmarks.pointing --workdir=runs/quickstart [--examples 200] [--objects 3] [--json]

Scenes with known boxes that the run has not seen, answers and caption words that it got right. A
method is worth something if it hits more often than the centre of a random object, which needs no
understanding of the words, and if the same method on random parameters does not. Intervals are
95 % bootstrap intervals over scenes. With --json the last line is one JSON object.
"""

import argparse
import json
from pathlib import Path

import vlm_jax
from vlm_jax.data.scenes import Scenes
from vlm_jax.insight import METHODS, pointing


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
    if given.json:
        rows = {name: {k: v._asdict() for k, v in t.items()} for name, t in tables.items()}
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
