"""The page at the end of a run: scores beside baselines, curves, and what the model says about
pictures.

Made from the workdir alone, one self-contained HTML file. What a run does not have (yet), the page
says is missing.
"""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from vlm_jax import tables
from vlm_jax.curves import Chart, Series, chart
from vlm_jax.metrics.vqa_accuracy import vqa_accuracy_score
from vlm_jax.workdir import atomic_write_text, read_config

FILE = "report.html"

PICTURES = 12
"""Examples shown of each evaluation, evenly spaced over its predictions, good and bad alike."""

QUERIES, QUESTIONS = 8, 6
"""Text queries shown of each evaluation; questions shown of each picture."""

SIDE = 224
"""Longest side of an embedded picture in pixels; smaller ones are enlarged."""

Row = dict[str, Any]
Card = dict[str, Any]


def write(folder: str | Path) -> Path:
    """Writes `folder`/report.html and returns its path.

    FileNotFoundError if `folder` is no workdir, ValueError if its config is broken, OSError if it
    cannot be written. Anything else that is missing or unreadable becomes a sentence on the page.
    """
    folder = Path(folder).absolute()
    page = _environment().get_template("report.html.jinja").render(contents(folder))
    atomic_write_text(folder / FILE, page)
    return folder / FILE


def contents(folder: Path) -> dict[str, Any]:
    """What the template shows, read from a workdir. Errors as in `write`."""
    config = read_config(folder)
    log, timing = _read_lines(folder / "metrics.jsonl"), _read_lines(folder / "timing.jsonl")
    names = list(config.get("evals") or {})
    found = _latest(log)
    groups = tables.group_metrics(
        {key: value for key, value in found.items() if key.split("/")[0] in names}
    )
    return {
        "title": folder.name,
        "facts": _facts(folder, config, log, timing),
        "groups": groups,
        "expected": config.get("expected") or {},
        "missing": [name for name in names if name not in {group.name for group in groups}],
        "galleries": [_gallery(folder, config, name) for name in names],
        "charts": _loss_charts(log) + _eval_charts(log, groups) + _speed_charts(timing),
        "details": _details(folder),
        "format_value": tables.format_value,
    }


# --- numbers ----------------------------------------------------------------------------------------------------------
def _read_lines(path: Path) -> list[Row]:
    """The JSON objects of a file, one a line; lines that are not one are left out, an absent file
    has none.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # a run that goes on may be writing this line right now
    return [row for row in rows if isinstance(row, dict)]


def _latest(log: Sequence[Row]) -> dict[str, float]:
    """Every name that was ever logged with its last value; values that were not finite are left
    out.
    """
    return {
        key: value for row in log for key, value in row.items() if isinstance(value, int | float)
    }


def _facts(
    folder: Path, config: Mapping[str, Any], log: Sequence[Row], timing: Sequence[Row]
) -> list[tuple[str, str]]:
    """(name, value) of what stands at the top of the page."""
    facts = []
    if log:
        step, total = log[-1].get("step", 0), config.get("total_steps")
        facts.append(("steps", f"{step:,} of {total:,}" if total else f"{step:,}"))
    parameters = _text(folder / "parameters.txt").split()
    if parameters:
        facts.append(("parameters", parameters[-1]))  # the table ends in the total
    column = lambda name: [row[name] for row in timing if isinstance(row.get(name), int | float)]
    if speeds := column("examples_per_second"):
        facts.append(("examples per second", f"{np.median(speeds):,.0f}"))
    if waits := column("waiting_share"):
        facts.append(("waiting for data", f"{np.mean(waits):.1%}"))
    if first := column("first_step_seconds"):
        facts.append(("start to first step", f"{first[-1]:.1f} s"))
    return facts


def _series(
    rows: Sequence[Row], key: str, name: str | None = None, baseline: bool = False
) -> Series:
    """One logged value over the steps at which it was logged."""
    logged = [row for row in rows if key in row]
    return Series(
        name or key, [row["step"] for row in logged], [row[key] for row in logged], baseline
    )


def _charts(*charts: Chart | None) -> list[Chart]:
    return [one for one in charts if one is not None]


def _loss_charts(log: Sequence[Row]) -> list[Chart]:
    """The loss, whole and by task, and what steers it."""
    seen = dict.fromkeys(key for row in log for key in row)
    losses = [
        _series(log, key, key.removeprefix("loss/")) for key in seen if key.split("/")[0] == "loss"
    ]
    others = [("gradient_norm", "gradient norm"), ("learning_rate", "learning rate")]
    return _charts(
        chart("training loss", losses),
        *(chart(title, [_series(log, key, title)]) for key, title in others),
    )


def _eval_charts(log: Sequence[Row], groups: Sequence[tables.Group]) -> list[Chart]:
    """The first two metrics of each evaluation that have a baseline, with it."""
    drawn = []
    for group in groups:
        for row in [row for row in group.rows if row.baselines][:2]:
            key = f"{group.name}/{row.metric}"
            series = [_series(log, key, row.label)]
            series += [
                _series(log, f"{key}/{b}", b.replace("_", " "), baseline=True)
                for b in row.baselines
            ]
            drawn.append(chart(f"{group.name}: {row.label}", series, from_zero=True))
    return _charts(*drawn)


def _speed_charts(timing: Sequence[Row]) -> list[Chart]:
    """How fast the run was, and how much of its time it waited."""
    return _charts(
        chart(
            "speed", [_series(timing, "examples_per_second", "examples per second")], from_zero=True
        ),
        chart(
            "waiting for data",
            [_series(timing, "waiting_share", "share of the time")],
            from_zero=True,
        ),
    )


def _details(folder: Path) -> list[tuple[str, str]]:
    """(heading, text) of the files that are shown folded up; the text is empty if there is no such
    file.
    """
    files = {
        "configuration": "config.json",
        "versions": "versions.json",
        "parameters": "parameters.txt",
    }
    return [(heading, _text(folder / file).strip()) for heading, file in files.items()]


def _text(path: Path) -> str:
    """A text file, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- pictures ---------------------------------------------------------------------------------------------------------
def _gallery(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One evaluation's predictions beside the truth: name, kind, cards, how many there are, and
    notes on what is missing.
    """
    rows = [row for row in _read_lines(folder / "predictions" / f"{name}.jsonl") if "id" in row]
    kind = next((kind for kind in KINDS if any(kind in row for row in rows)), None)
    gallery: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "cards": [],
        "total": len(rows),
        "notes": [],
    }
    if kind is None:
        gallery["notes"].append("This evaluation has saved no predictions that can be shown.")
        return gallery
    choose, make = KINDS[kind]
    chosen = choose([row for row in rows if kind in row])
    examples: dict[str, Any] = {}
    # Whatever is wrong with a data set by now, a run that has ended well must not fail for its pictures.
    try:
        section = config["evals"][name]
        examples = _find(
            section.get("data") or config["data"]["train"], {i for row in chosen for i in _ids(row)}
        )
    except Exception as error:
        logging.warning("no pictures for %s in the report: %s", name, error)
        gallery["notes"].append(f"The pictures cannot be shown: {error}")
    try:
        gallery["cards"] = make(chosen, examples)
    except Exception as error:
        logging.warning("the predictions of %s are not in the report: %s", name, error)
        gallery["notes"].append(f"The predictions cannot be shown: {error}")
    return gallery


def _find(data: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The examples with these ids, of those that a config's data source holds. Errors are the
    source's own.
    """
    from vlm_jax.data.sources import make_source  # late: data sets bring heavy imports

    source, found = make_source(data), {}
    for i in range(len(source)):
        if len(found) == len(wanted):
            break
        example = source[i]
        if example["id"] in wanted:
            found[example["id"]] = example
    return found


def _ids(row: Row) -> list[str]:
    """The ids of all images that a prediction is about."""
    return [_image_id(row), *row.get("hits", ())]


def _image_id(row: Row) -> str:
    """A question's id is its image's with a number behind it."""
    return row["id"].rpartition("/")[0] if "answer" in row else row["id"]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _some(rows: Sequence[Row]) -> list[Row]:
    return _spread(rows, PICTURES)


def _some_queries(rows: Sequence[Row]) -> list[Row]:
    return _spread(rows, QUERIES)


def _some_asked(rows: Sequence[Row]) -> list[Row]:
    """All questions, up to QUESTIONS, of some images."""
    asked = _by_image(rows)
    return [row for image in _spread(list(asked), PICTURES) for row in asked[image][:QUESTIONS]]


def _by_image(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_image_id(row), []).append(row)
    return groups


def _caption_cards(rows: Sequence[Row], examples: Mapping[str, Any]) -> list[Card]:
    """Picture, generated caption, true captions."""
    return [
        {
            "picture": _picture(row["id"], examples),
            "caption": row["caption"],
            "true": _of(row, examples, "captions"),
        }
        for row in rows
    ]


def _answer_cards(rows: Sequence[Row], examples: Mapping[str, Any]) -> list[Card]:
    """Picture with its questions; each has the answer given, the true one, and a score in [0, 1]
    (None: unknown).
    """
    cards = []
    for image, asked in _by_image(rows).items():
        known = {q["question"]: q["answers"] for q in _of(asked[0], examples, "questions")}
        answers = [
            _answer(row.get("question", ""), row["answer"], known.get(row.get("question")))
            for row in asked
        ]
        cards.append({"picture": _picture(image, examples), "answers": answers})
    return cards


def _label_cards(rows: Sequence[Row], examples: Mapping[str, Any]) -> list[Card]:
    """Picture with the class given and the true class."""
    cards = []
    for row in rows:
        true = examples.get(row["id"], {}).get("label")
        answers = [_answer("", row["label"], [true] if true else None)]
        cards.append({"picture": _picture(row["id"], examples), "answers": answers})
    return cards


def _answer(question: str, given: str, true: Sequence[str] | None) -> dict[str, Any]:
    score = None if true is None else vqa_accuracy_score(given, true)
    return {
        "question": question,
        "given": given,
        "true": ", ".join(dict.fromkeys(true or ())),
        "score": score,
    }


def _query_cards(rows: Sequence[Row], examples: Mapping[str, Any]) -> list[Card]:
    """A text, the images found for it (best first), and the one it was written for, if that was not
    found.
    """
    cards = []
    for row in rows:
        text = row.get("text", "")
        carries = lambda image: text in examples.get(image, {}).get("captions", ())
        hits = [
            {"picture": _picture(image, examples), "right": image == row["id"] or carries(image)}
            for image in row["hits"]
        ]
        missed = None if row["id"] in row["hits"] else _picture(row["id"], examples)
        cards.append({"text": text, "hits": hits, "missed": missed})
    return cards


def _of(row: Row, examples: Mapping[str, Any], key: str) -> Sequence[Any]:
    return examples.get(_image_id(row), {}).get(key, ())


def _picture(image_id: str, examples: Mapping[str, Any]) -> dict[str, str | None]:
    """Id and data URI of an example's image; the URI is None if there is no such example or it is
    no picture.
    """
    from vlm_jax.data import images

    uri = None
    if image_id in examples:
        try:
            uri = data_uri(images.decode(examples[image_id]["image"]))
        except (OSError, ValueError, TypeError) as error:
            logging.warning("example %s has no picture in the report: %s", image_id, error)
    return {"id": image_id, "uri": uri}


def data_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """u8[H, W, 3] as a JPEG data URI whose longest side is `side` pixels."""
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


KINDS: dict[
    str,
    tuple[
        Callable[[Sequence[Row]], list[Row]],
        Callable[[Sequence[Row], Mapping[str, Any]], list[Card]],
    ],
] = {
    "caption": (_some, _caption_cards),
    "answer": (_some_asked, _answer_cards),
    "label": (_some, _label_cards),
    "hits": (_some_queries, _query_cards),
}
"""The key by which a prediction is known for what it is -> which of them are shown, and how."""


def _environment() -> jinja2.Environment:
    """Templates whose values are all escaped; a name that is not there is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vlm_jax", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
