"""What retrieval gives a captioner: one run, any number of neighbours, any memory, no training.

    python -m benchmarks.retrieval_augmented --workdir=RUN [--k 0 1 4] [--memory OTHER ...] [--json]

RUN is a run of configs/captioning/retrieval_prompt.py or retrieval_memory.py. Every evaluation set
of its config is captioned with k neighbours of its own memory, and with the most of them out of
each other memory given (made by --mode=index, or a folder of the cache, by the same encoder).
CIDEr-D, BLEU-4 and R-precision stand with their 95 % bootstrap intervals, and beside them what the
nearest neighbour's text scores when it is taken for the caption. The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from vlm_jax import api, experiment
from vlm_jax.memory import neighbours
from vlm_jax.metrics import caption_measures, score
from vlm_jax.metrics.r_precision import r_precision_measure

METRICS = ("CIDEr-D", "BLEU-4", "R-precision")


def scored(texts: Mapping[str, str], references: Mapping[str, list[str]]) -> dict[str, Any]:
    """The metrics of captions as {name: [value, low, high]}, and n."""
    measures = [*caption_measures(texts, references), r_precision_measure(texts, references)]
    found = score(measures)
    rows = {name: [round(x, 4) for x in found[name][:3]] for name in METRICS}
    return rows | {"n": len(texts)}


def captions(model: api.Model, data: Mapping[str, Any]) -> tuple[dict[str, str], Any]:
    """Captions of a source by id, and the source."""
    source = experiment.source(data, "--workdir")
    task = next(task for task in model.run.experiment.tasks.values() if hasattr(task, "prompt"))
    written = model.run.write(source, task.query, task.length)
    return {source[i]["id"]: text for i, text in written.items()}, source


def main() -> None:
    """Caption, score, print a line each, and one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--memory", nargs="*", default=[])
    parser.add_argument(
        "--own", action="store_true", help="entries of these memories may share a picture's id"
    )
    parser.add_argument("--evals", nargs="*", help="names of evaluations; all by default")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    given = parser.parse_args()
    model, report = api.load(given.workdir), []
    config = model.run.experiment.config
    for name, section in config["evals"].items():
        if given.evals and name not in given.evals:
            continue
        data = section["data"]
        ways = [("own", None, k, None) for k in given.k]
        ways += [(folder, folder, max(given.k), given.own) for folder in given.memory]
        for memory, folder, k, own in ways:
            texts, source = captions(model, neighbours.with_memory(data, folder, k, own))
            examples = [source[i] for i in range(len(source))]
            references = {e["id"]: e["captions"] for e in examples if e["id"] in texts}
            row = {"eval": name, "memory": memory, "k": k, "caption": "written"}
            report.append(row | scored(texts, references))
            if k == max(given.k):
                nearest = {e["id"]: (e["retrieved"] or [""])[0] for e in examples}
                nearest = {key: nearest[key] for key in references}
                report.append(row | {"caption": "nearest text"} | scored(nearest, references))
        if not given.json:
            for row in [row for row in report if row["eval"] == name]:
                print(row, flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
