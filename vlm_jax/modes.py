"""What launch.py can be asked to do. Each mode takes (config, workdir, options) and returns an exit
code.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import api, evaluate, experiment, processes, tables, workdir
from vlm_jax.data import images
from vlm_jax.data.audio import no_picture
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.schema import Example
from vlm_jax.data.video_images import VideoFile, shown_frames
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
            if not _suits(Jsonl(options["data"]), section, stored):
                continue
            data = neighbours.of_other(data, {"name": "jsonl", "path": options["data"]})
        data = neighbours.with_memory(data, options.get("memory"), options.get("k"))
        source = experiment.source(data, f"config.evals.{name}.data")
        loaded.run.predictions = Path(folder) / "eval" / f"{name}.jsonl"
        metrics |= evaluate.evaluate(loaded.run, name, section, source, own)
    if not metrics:
        raise ValueError(
            "nothing was evaluated: the data has neither the captions nor the questions that "
            "this run's evals need"
        )
    _show(metrics)
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
    _show(metrics)
    return 0


def _show(metrics: Mapping[str, float]) -> None:
    """The scores as a table, then as one line of JSON."""
    if processes.is_first():
        tables.print_table(metrics)
        print(json.dumps(metrics), flush=True)


def _suits(source: Jsonl, section: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether any example has what the evaluation's task reads."""
    task = dict(config["tasks"][section["task"]] or {})
    texts = "questions" if task.get("name", section["task"]).startswith("vqa") else "captions"
    between = task.get("between") or ("image",)

    def has(example: Example, kind: str) -> bool:
        known = {"text": bool(example[texts]), "audio": "audio" in example}
        return known.get(kind, example["image"] is not no_picture)

    needed = between if "text" in between or len(between) == 2 else (*between, "text")
    return any(all(has(source[i], kind) for kind in needed) for i in range(len(source)))


def _loaded(folder: str, options: Mapping[str, Any]) -> api.Model:
    """The published checkpoint of --pretrained, or the run in the workdir."""
    published = options.get("pretrained")
    return api.load_pretrained(published) if published else api.load(folder)


def predict(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Caption, answer, rank, sum up, or draw; one JSON line on standard output."""
    loaded = _loaded(folder, options)
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
        ranking = loaded.rank_texts(options["image"], _lines(options["texts"]))
        result = {"image": options["image"], "ranking": ranking}
    elif given in ({"audio", "texts"}, {"audio", "images"}):
        result = _about_audio(loaded, options)
    elif given in ({"video"}, {"video", "question"}):
        result = _about_video(loaded, options)
    elif {"video", "summary"} <= given <= {"video", "summary", "out"}:
        result = _summary(loaded, options)
    elif {"text", "out"} <= given <= {"text", "out", "samples", "judge"}:
        result = {"text": options["text"], "out": _draw(loaded, options)}
    else:
        raise ValueError(
            "--mode=predict takes --image, --image with --question, --text with --images, "
            "--image with --texts, --audio with --texts or --images, --video, perhaps with "
            "--question or --summary, or --text with --out"
        )
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return 0


def _lines(path: str) -> list[str]:
    """The lines of a file that are not blank."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _about_audio(loaded: api.Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """The lines of --texts, or the pictures of --images, from best to worst for --audio."""
    found: dict[str, Any] = {"texts": _lines(options["texts"])} if options.get("texts") else {}
    found = found or {"images": images.find(options["images"])}
    ranking = loaded.rank_for_audio(options["audio"], **found)
    return {"audio": options["audio"], "ranking": ranking}


def _about_video(loaded: api.Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """A caption of --video, or the answer to --question, and by how many of its frames."""
    video, question = VideoFile(options["video"]), options.get("question")
    reader = loaded.run.experiment.read
    count = shown_frames(video, reader.frames or 1, reader.pace)
    read = {"video": options["video"], "frames": count}
    if question is None:
        return read | {"caption": loaded.caption(video)}
    return read | {"question": question, "answer": loaded.answer(video, question)}


def _summary(loaded: api.Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of --video with a sentence for each, and their key frames as a picture in --out."""
    from vlm_jax import video_summary  # late: few ask for it

    path, out = options["video"], options.get("out")
    parts = video_summary.summarise(loaded, path)
    if out:
        sheet = video_summary.sheet(parts, path)
        workdir.atomic_write_bytes(out, images.encode_png(np.asarray(sheet)))
    rows = [
        {"start": part.start, "end": part.end, "time": part.time, "caption": part.caption}
        for part in parts
    ]
    return {"video": path, "summary": rows} | ({"out": out} if out else {})


def _draw(loaded: api.Model, options: Mapping[str, Any]) -> str:
    """Writes pictures of --text side by side to --out, the best first if there is a --judge."""
    judge = api.load(options["judge"]) if options.get("judge") else None
    pictures = loaded.draw(options["text"], samples=options.get("samples") or 1, judge=judge)
    workdir.atomic_write_bytes(options["out"], images.encode_png(np.concatenate(pictures, axis=1)))
    return options["out"]


def chat(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """A conversation: turns come from standard input, answers go to standard output."""
    from vlm_jax.terminal import converse  # late: one mode needs it

    loaded = _loaded(folder, options)
    return converse(loaded.chat(), sys.stdin, sys.stdout, options.get("image"))


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
