"""What launch.py can be asked to do. Each mode takes (config, workdir, options) and returns an exit
code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vlm_jax import api, evaluate, experiment, tables, workdir
from vlm_jax.data import images
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.train import train as run_training


def train(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Train to the end, print the metrics beside their baselines."""
    _train(config, folder)
    return 0


def _train(config: Any, folder: str) -> dict[str, float]:
    metrics = run_training(workdir.to_json(config), folder)
    if metrics and jax.process_index() == 0:
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
    loaded = api.load(folder)
    stored, metrics = loaded.run.experiment.config, {}
    # A training source is only needed for the blind baselines of the config's own sets.
    own = (
        None if options["data"] else experiment.source(stored["data"]["train"], "config.data.train")
    )
    loaded.run.batch_size = stored["batch_size"]
    for name, section in dict(stored.get("evals") or {}).items():
        section = dict(section)
        if options["data"]:
            source = Jsonl(options["data"])
            if not _suits(source, section, stored):
                continue
        else:
            source = experiment.source(
                section.get("data") or stored["data"]["train"], f"config.evals.{name}.data"
            )
        loaded.run.predictions = Path(folder) / "eval" / f"{name}.jsonl"
        metrics |= evaluate.evaluate(loaded.run, name, section, source, own)
    if not metrics:
        raise ValueError(
            "nothing was evaluated: the data has neither the captions nor the questions that "
            "this run's evals need"
        )
    tables.print_table(metrics)
    print(json.dumps(metrics), flush=True)
    return 0


def _evaluate_pretrained(folder: str | None, options: Mapping[str, Any]) -> int:
    """The tasks of a published checkpoint on a user's folder."""
    if not options["data"]:
        raise ValueError("--mode=eval --pretrained=FOLDER needs --data=FOLDER with a data.jsonl")
    loaded, metrics = api.load_pretrained(options["pretrained"]), {}
    source = Jsonl(options["data"])
    for name in loaded.run.experiment.tasks:
        section = {"task": name}
        if _suits(source, section, loaded.run.experiment.config):
            if folder:
                loaded.run.predictions = Path(folder) / "eval" / f"{name}.jsonl"
            metrics |= evaluate.evaluate(loaded.run, name, section, source, None)
    if not metrics:
        raise ValueError(f"{options['data']} has neither the captions nor the questions to score")
    tables.print_table(metrics)
    print(json.dumps(metrics), flush=True)
    return 0


def _suits(source: Jsonl, section: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether any example has what the evaluation's task reads."""
    kind = dict(config["tasks"][section["task"]] or {}).get("name", section["task"])
    key = "questions" if kind.startswith("vqa") else "captions"
    return any(source[i][key] for i in range(len(source)))


def predict(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Caption, answer, or rank; one JSON line on standard output."""
    published = options.get("pretrained")
    loaded = api.load_pretrained(published) if published else api.load(folder)
    given = {name for name, value in options.items() if value is not None} - {"pretrained"}
    if given == {"image"}:
        result = {"image": options["image"], "caption": loaded.caption(options["image"])}
    elif given == {"image", "question"}:
        answer = loaded.answer(options["image"], options["question"])
        result = {"image": options["image"], "question": options["question"], "answer": answer}
    elif given == {"text", "images"}:
        paths = images.find(options["images"])
        result = {"text": options["text"], "ranking": loaded.rank(options["text"], paths)}
    elif given == {"image", "texts"}:
        lines = Path(options["texts"]).read_text(encoding="utf-8").splitlines()
        texts = [line.strip() for line in lines if line.strip()]
        result = {"image": options["image"], "ranking": loaded.rank_texts(options["image"], texts)}
    else:
        raise ValueError(
            "--mode=predict takes --image, --image with --question, --text with --images, or "
            "--image with --texts"
        )
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return 0


MODES = {"train": train, "eval": evaluation, "predict": predict, "reproduce": reproduce}
