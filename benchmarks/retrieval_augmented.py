"""What retrieval gives a captioner: one run, any number of neighbours, any memory, no training.

    python -m benchmarks.retrieval_augmented --workdir=RUN [--stamps] [--swap unseen stamps classes]
        [--k 0 1 4] [--memory FOLDER ...] [--docs docs/retrieval.md] [--json]

RUN is a run of configs/captioning/kit_smallcap.py, retrieval_prompt.py or retrieval_memory.py.
Every evaluation set of its config, and with --stamps every fourth of Tux Paint's stamps, is
captioned with k neighbours of its own memory, and with the most of them out of other memories, none
of which it was trained with: --swap names some that are made here (see SWAPS), --memory folders
made by --mode=index with the same encoder. CIDEr-D, BLEU-4 and R-precision stand with their 95 %
bootstrap intervals, and beside k = 0 the paired difference in CIDEr-D. Baselines: the nearest
neighbour's text taken for the caption, and captions written without a picture (its features set to
zero; for runs on kept features). The last line is one JSON object.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import sections
from vlm_jax import api, experiment
from vlm_jax.data.cache import cache_folder
from vlm_jax.data.schema import Example
from vlm_jax.memory import classes, neighbours
from vlm_jax.metrics import caption_measures
from vlm_jax.metrics.bootstrap import compare_measures, score
from vlm_jax.metrics.r_precision import r_precision_measure

METRICS = ("CIDEr-D", "BLEU-4", "R-precision")
UNSEEN = dict(name="emoji", vendor="openmoji", split="unseen", texts=("label",))
STAMPS = dict(name="stamps")
SWAPS = {
    "unseen": "drawings of the unseen concepts (OpenMoji)",
    "stamps": "Tux Paint's stamps",
    "classes": "names of ImageNet's classes, vectors of the classifier",
}
"""Memories by name."""

Texts = Mapping[str, str]


class Way(NamedTuple):
    """One way to caption a set. memory: as for `neighbours.with_memory`. own: whether neighbours
    may have a picture's own id. blind: without the picture.
    """

    label: str
    memory: Any
    k: int
    own: bool = False
    blind: bool = False


class Blind:
    """The examples of a source with features of nothing in place of their pictures'."""

    def __init__(self, source: Any) -> None:
        self.name, self._source = source.name, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example: Any = dict(self._source[index])
        zeros = {name: np.zeros_like(x) for name, x in example["features"].items()}
        return {**example, "features": zeros}


def measures(texts: Texts, references: Mapping[str, list[str]]) -> list[Any]:
    """Those of METRICS, in the order of the references."""
    texts = {key: texts[key] for key in references}
    found = [*caption_measures(texts, references), r_precision_measure(texts, references)]
    return [measure for measure in found if {*measure.names} & {*METRICS}]


def captions(model: api.Model, source: Any) -> dict[str, str]:
    """Captions of a source by id."""
    task = next(task for task in model.run.experiment.tasks.values() if hasattr(task, "prompt"))
    written = model.run.write(source, task.query, task.length)
    return {source[i]["id"]: text for i, text in written.items()}


def innermost(data: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A source's config with the one that it is made from changed by a function."""
    if "source" not in data:
        return change(dict(data))
    return {**data, "source": innermost(data["source"], change)}


def sets(config: Mapping[str, Any], names: list[str] | None, stamps: bool) -> dict[str, Any]:
    """Configs of the sets to caption, by name; of a run without evaluations, the unseen drawings of
    Noto.
    """
    found = {name: section["data"] for name, section in (config["evals"] or {}).items()}
    unseen = lambda data: data | dict(vendor="noto", split="unseen")
    found = found or {"unseen_noto": innermost(config["data"]["train"], unseen)}
    found = {name: data for name, data in found.items() if not names or name in names}
    if stamps:
        found["stamps"] = innermost(config["data"]["train"], lambda data: STAMPS)
    return found


def shortened(data: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """The source's config, evenly thinned out to at most about so many examples."""
    bare = data
    while "source" in bare:
        bare = bare["source"]
    step = -(-len(experiment.source(bare, "--limit")) // limit) if limit else 1
    if step == 1:
        return dict(data)
    return innermost(data, lambda found: dict(name="subset", source=found, step=step))


def swapped(name: str, config: Mapping[str, Any]) -> Way:
    """A way with one of SWAPS."""
    memory = config["data"]["train"]["memory"]
    size = memory["source"].get("size", 64)
    made = {"unseen": UNSEEN | {"size": size}, "stamps": STAMPS}
    if name == "classes":
        folder = cache_folder() / "memories" / "imagenet"
        return Way(SWAPS[name], str(classes.imagenet(folder).folder), 0)
    other = {"source": made[name], "encoder": memory["encoder"]}
    return Way(SWAPS[name], other, 0, own=name == "unseen")


def ways(given: argparse.Namespace, config: Mapping[str, Any], kept: bool) -> Iterator[Way]:
    """What the table has rows for."""
    most = max(given.k)
    for k in given.k:
        yield Way("own", None, k)
    for name in given.swap:
        yield swapped(name, config)._replace(k=most)
    for folder in given.memory:
        yield Way(folder, folder, most, given.own)
    for k in (0, most) if kept else ():
        yield Way("own, no picture", None, k, blind=True)


def rows(
    model: api.Model, name: str, data: Any, given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each way to caption a set, and for its memory's nearest texts."""
    config = model.run.experiment.config
    base = None
    for way in ways(given, config, "vision" in json.dumps(data)):
        own = way.own and "openmoji" not in name  # a drawing is no neighbour of itself
        source = experiment.source(neighbours.with_memory(data, way.memory, way.k, own), name)
        examples = [source[i] for i in range(len(source))]
        written = captions(model, Blind(source) if way.blind else source)
        kept = [e for e in examples if e["id"] in written]
        references = {e["id"]: list(e["captions"]) for e in kept}
        about = {"eval": name, "memory": way.label, "k": way.k, "n": len(kept)}
        found = measures(written, references)
        base = found if base is None else base
        row = about | {"caption": "written"} | scored(found, base)
        yield row | {"examples": list(written.values())[:5]}
        if way.k == max(given.k) and not way.blind:
            nearest = {e["id"]: (e["retrieved"] or [""])[0] for e in kept}
            row = about | {"caption": "nearest text"}
            yield row | scored(measures(nearest, references), base)


def scored(found: list[Any], base: list[Any]) -> dict[str, Any]:
    """The metrics as {name: [value, low, high]}; gain: of CIDEr-D beside those of `base`."""
    values = score(found)
    gain = compare_measures(base, found)["CIDEr-D"]
    result = {name: [round(x, 4) for x in values[name][:3]] for name in METRICS}
    return result | {"gain": [round(x, 4) for x in (gain.difference, gain.low, gain.high)]}


def page(report: list[dict[str, Any]], command: str) -> str:
    """The report as Markdown."""
    number = lambda x: f"{x[0]:.3f} ({x[1]:.3f}, {x[2]:.3f})"
    parts = [f"## Captions with and without neighbours\n\n    {command}\n"]
    for name in dict.fromkeys(row["eval"] for row in report):
        some = [row for row in report if row["eval"] == name]
        lines = [
            (row["caption"], row["memory"], row["k"], *(number(row[x]) for x in (*METRICS, "gain")))
            for row in some
        ]
        head = ["caption", "memory", "k", *METRICS, "CIDEr-D beside k = 0"]
        parts.append(f"{name}, {some[0]['n']} pictures\n\n{sections.table(head, lines)}\n")
    return "\n".join(parts)


def main() -> None:
    """Caption, score, print a line each, and one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--memory", nargs="*", default=[])
    parser.add_argument("--swap", nargs="*", default=[], choices=SWAPS)
    parser.add_argument("--stamps", action="store_true", help="caption Tux Paint's stamps, too")
    parser.add_argument(
        "--own", action="store_true", help="entries of --memory may share a picture's id"
    )
    parser.add_argument("--evals", nargs="*", help="names of evaluations; all by default")
    parser.add_argument("--limit", type=int, help="so many pictures of each set, evenly chosen")
    parser.add_argument("--docs", help="a page in which to write the table")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object")
    given = parser.parse_args()
    model, report = api.load(given.workdir), []
    config = model.run.experiment.config
    for name, data in sets(config, given.evals, given.stamps).items():
        data = shortened(data, given.limit or (240 if name == "stamps" else None))
        for row in rows(model, name, data, given):
            report.append(row)
            if not given.json:
                print(row, flush=True)
    if given.docs:
        swaps = f" --swap {' '.join(given.swap)}" if given.swap else ""
        command = f"python -m benchmarks.retrieval_augmented --workdir={given.workdir}{swaps}"
        command += f" --limit {given.limit}" if given.limit else ""
        command += " --stamps" * given.stamps + f" --docs {given.docs}"
        sections.write("captions", page(report, command), given.docs)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
