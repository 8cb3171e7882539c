"""What launch.py can be asked to do. Each mode takes (config, workdir, options) and returns an exit
code.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax import api, evaluate, experiment, processes, tables, workdir
from vlm_jax.data import in_memory
from vlm_jax.data.audio import no_picture
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.predict import lines, prediction
from vlm_jax.train import train as run_training


def train(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Train to the end, print the metrics beside their baselines."""
    _train(config, folder)
    return 0


def _train(config: Any, folder: str) -> dict[str, float]:
    metrics = run_training(workdir.to_json(config), folder)
    if metrics and processes.is_first():
        tables.print_table(metrics)
        print(f"report: {Path(folder) / 'report.html'}", flush=True)
    return metrics


def reproduce(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Train, then compare with the config's `expected = {metric: (value, tolerance)}`; 1 if any
    lies outside.
    """
    expected = dict(config.get("expected") or {})
    if not expected:
        raise ValueError("this config has no `expected` numbers to reproduce")
    metrics, wrong = _train(config, folder), 0
    for name, (value, tolerance) in expected.items():
        got = metrics.get(name)
        fine = got is not None and abs(got - value) <= tolerance
        wrong += not fine
        found = "absent" if got is None else f"{got:.4g}"
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {found}, expected {value} +- {tolerance}")
    return int(wrong > 0)


def evaluation(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Evaluate a finished run on the config's sets or on a user's folder; the last line is one JSON
    object.
    """
    if options.get("pretrained"):
        return _evaluate_pretrained(folder, options)
    from vlm_jax.memory import neighbours  # late: most modes need no memory

    loaded = api.load(folder)
    stored, metrics = loaded.run.experiment.config, {}
    # A training source is only needed for the blind baselines of the config's own sets.
    own = (
        None if options["data"] else experiment.source(stored["data"]["train"], "config.data.train")
    )
    loaded.run.batch_size = stored["batch_size"]
    for name, section in dict(stored.get("evals") or {}).items():
        section = dict(section)
        data = section.get("data") or stored["data"]["train"]
        if options["data"]:
            if not _suits(Jsonl(options["data"]), section, loaded.run.experiment):
                continue
            data = neighbours.of_other(data, {"name": "jsonl", "path": options["data"]})
        data = neighbours.with_memory(data, options.get("memory"), options.get("k"))
        source = experiment.source(data, f"config.evals.{name}.data")
        loaded.run.predictions = Path(folder) / "eval" / f"{name}.jsonl"
        metrics |= evaluate.evaluate(loaded.run, name, section, source, own)
    if not metrics:
        asked = {section["task"] for section in dict(stored.get("evals") or {}).values()}
        raise _nothing_for(sorted(asked), loaded.run.experiment, options["data"] or "config.evals")
    _show(metrics)
    return 0


def _evaluate_pretrained(folder: str | None, options: Mapping[str, Any]) -> int:
    """The tasks of a published checkpoint on a user's folder, or, of a language model, on the lines
    of a file.
    """
    if not (options["data"] or options.get("texts")):
        raise ValueError(
            "--mode=eval --pretrained=FOLDER needs --data=FOLDER with a data.jsonl, or, for a "
            "language model, --texts=FILE with a text per line"
        )
    loaded, metrics = api.load_pretrained(options["pretrained"]), {}
    source: Any = Jsonl(options["data"]) if options["data"] else None
    source = source or in_memory.texts_alone(lines(options["texts"]))
    tasks = loaded.run.experiment.tasks
    for name in tasks:
        section = {"task": name}
        if _suits(source, section, loaded.run.experiment):
            if folder:
                loaded.run.predictions = Path(folder) / "eval" / f"{name}.jsonl"
            metrics |= evaluate.evaluate(loaded.run, name, section, source, None)
    if not metrics:
        given = options["data"] or options["texts"]
        raise _nothing_for(list(tasks), loaded.run.experiment, given)
    _show(metrics)
    return 0


def _nothing_for(tasks: Sequence[str], setup: experiment.Experiment, given: str) -> ValueError:
    """What to say where no task could be scored. given: the name of the data."""
    needs = "; ".join(f"{name} needs {' and '.join(_needs(name, setup))}" for name in tasks)
    return ValueError(
        f"{given} has nothing that this model is scored by: "
        f"{needs or 'it has no task, only features'}"
    )


def _show(metrics: Mapping[str, float]) -> None:
    """The scores as a table, then as one line of JSON."""
    if processes.is_first():
        tables.print_table(metrics)
        print(json.dumps(metrics), flush=True)


def _suits(source: Any, section: Mapping[str, Any], setup: experiment.Experiment) -> bool:
    """Whether any example has what the evaluation's task reads."""
    needed = _needs(section["task"], setup)

    def has(example: Any, kind: str) -> bool:
        if kind == "image":
            return example["image"] is not no_picture
        return bool(example.get(kind))

    return any(all(has(source[i], kind) for kind in needed) for i in range(len(source)))


def _needs(name: str, setup: experiment.Experiment) -> tuple[str, ...]:
    """What a task reads of an example, by its keys."""
    reads = setup.tasks[name].reads
    return reads if setup.read.fit != "none" else tuple(key for key in reads if key != "image")


def _loaded(folder: str, options: Mapping[str, Any]) -> api.Model:
    """The published checkpoint of --pretrained, or the run in the workdir."""
    published = options.get("pretrained")
    return api.load_pretrained(published) if published else api.load(folder)


def predict(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Caption, answer, classify, complete, fill, rank, sum up, or draw; one JSON line on standard
    output. 1 if some of several pictures or conversations could not be read, or not to their ends.
    """
    source = options.get("pretrained") or folder
    result = prediction(_loaded(folder, options), options, source)
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return int(bool(result.get("errors")))


def chat(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """A conversation: turns come from standard input, answers go to standard output."""
    from vlm_jax.terminal import converse  # late: one mode needs it

    talk, speed = _loaded(folder, options).chat(), bool(options.get("speed"))
    return converse(talk, sys.stdin, sys.stdout, options.get("image"), speed)


def index(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Embed a data set with a finished run, into a memory."""
    from vlm_jax.memory import commands  # late, as above

    return commands.index(config, folder, options)


def search(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """The entries of a memory nearest to a text or a picture."""
    from vlm_jax.memory import commands  # late, as above

    return commands.search(config, folder, options)


def plan(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """What the config needs of a topology's chips; 1 if it does not fit, with the nearest variant
    that does. The last line is one JSON object if `json` is asked for.
    """
    from vlm_jax.plan import show, variants  # late: the others need no compiler for pods
    from vlm_jax.plan.planner import make_plan

    if not options.get("topology"):
        raise ValueError("--mode=plan needs --topology=KIND:AxB, such as v5e:8x8 or cpu:8")
    given = workdir.to_json(config)
    made = make_plan(given, options["topology"])
    print(show.as_text(made), flush=True)
    found = show.as_json(made)
    if not made.fits:
        near = variants.nearest(given, made)
        found["nearest"] = None if near is None else show.as_json(near[1]) | {"changed": near[0]}
        print(show.advice(near), flush=True)
    if options.get("json"):
        print(json.dumps(found), flush=True)
    return int(not made.fits)


def explain(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Maps of why a model answers, captions or matches as it does; one JSON line with the files."""
    from vlm_jax import report
    from vlm_jax.gallery import EXPLANATIONS
    from vlm_jax.insight import page  # late: most modes explain nothing

    if not options["image"]:
        raise ValueError("--mode=explain needs --image=PATH, and a --question or --text if any")
    if not (folder or options["out"]):
        raise ValueError("--mode=explain --pretrained needs --out=FOLDER")
    loaded = _loaded(folder, options)
    out = Path(options["out"] or Path(folder) / EXPLANATIONS / Path(options["image"]).stem)
    methods = options["method"].split(",") if options["method"] else None
    asked = {name: options[name] for name in ("question", "text")}
    found = page.explain_to(out, loaded, options["image"], methods=methods, **asked)
    if folder and out.parent == Path(folder) / EXPLANATIONS:
        report.write(folder)
    print(json.dumps({"page": str(out / page.FILE)} | found, ensure_ascii=False), flush=True)
    return 0


MODES = {
    "train": train,
    "eval": evaluation,
    "predict": predict,
    "chat": chat,
    "index": index,
    "search": search,
    "explain": explain,
    "reproduce": reproduce,
    "plan": plan,
}
