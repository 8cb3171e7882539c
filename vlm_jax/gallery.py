"""What a model said about pictures, beside the pictures and the truth.

Made from the predictions that an evaluation saved and from its data source; nothing is computed by
a model. The keys of a prediction say what it is: {"id", "caption"}, {"id", "question", "answer"},
{"id", "label"}, {"id", "text", "hits"} with the ids of the images found for a text, or {"id",
"text", "drawn"} with the file of a picture made for a text, or from the picture itself.
"""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlm_jax.metrics.vqa_accuracy import vqa_accuracy_score

PICTURES = 12
"""Pictures shown of an evaluation, evenly spaced over its predictions, good and bad alike."""

QUERIES, QUESTIONS = 8, 6
"""Text queries shown of an evaluation; questions shown of a picture."""

SIDE = 264
"""Longest side of an embedded picture in pixels; smaller ones are enlarged."""

EXPLANATIONS, EXPLANATION = "explanations", "explanation.json"
"""Folder of a workdir with a folder for each explained picture, and the file in each."""

Row = dict[str, Any]
Examples = Mapping[str, Mapping[str, Any]]
"""Examples (see `vlm_jax.data.schema`) by id."""


class Gallery(NamedTuple):
    """The pictures of one evaluation. kind: a key of KINDS, None if there is nothing to show.

    total: number of predictions. note: what is missing, in a sentence, or empty.
    """

    name: str
    kind: str | None
    cards: list[dict[str, Any]]
    total: int
    note: str


def gallery(folder: Path, config: Mapping[str, Any], name: str) -> Gallery:
    """Some predictions of evaluation `name` of the run in `folder`, beside the truth.

    config: the run's. Whatever is missing becomes a note.
    """
    path = folder / "predictions" / f"{name}.jsonl"
    rows = read_rows(path, "id")
    kind = next((kind for kind in KINDS if any(kind in row for row in rows)), None)
    if kind is None:
        return Gallery(name, None, [], len(rows), "This evaluation saved no predictions to show.")
    choose, card = KINDS[kind]
    groups = choose([row | {"folder": path.parent} for row in rows if kind in row])
    wanted = {
        i for group in groups for row in group for i in (_image_id(row), *row.get("hits", ()))
    }
    examples, note = {}, ""
    try:
        examples = _find(config["evals"][name].get("data") or config["data"]["train"], wanted)
    except Exception as error:  # a run that ended well must not fail for data that have gone since
        logging.warning("the report has no pictures for %s: %s", name, error)
        note = f"The pictures cannot be shown: {error}"
    return Gallery(name, kind, [card(group, examples) for group in groups], len(rows), note)


def explanations(folder: Path) -> list[dict[str, Any]]:
    """What `--mode=explain` left in the run's folder `explanations`, in order of their names."""
    found = sorted((folder / EXPLANATIONS).glob(f"*/{EXPLANATION}"))
    return [one for path in found for one in explained(path.parent)]


def explained(folder: Path) -> list[dict[str, Any]]:
    """The explanation in a folder with its pictures as data URIs; [] if it cannot be read.

    Each word that was left out gets its share of the largest drop, in [0, 1].
    """
    uri = lambda name: data_uri(np.asarray(Image.open(folder / name).convert("RGB")))
    try:
        why = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
        for word in (word for method in why["methods"] for word in method["words"]):
            word["uri"] = uri(word["file"])
        most = max([0.0, *(word["drop"] for word in why["left_out"])])
        for word in why["left_out"]:
            word["share"] = max(word["drop"], 0.0) / most if most else 0.0
        return [why | {"uri": uri(why["picture"])}]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning("the explanation in %s cannot be shown: %s", folder, error)
        return []


def read_rows(path: Path, key: str) -> list[Row]:
    """The JSON objects with `key` in a file of one a line; other lines are left out, an absent file
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
    return [row for row in rows if isinstance(row, dict) and key in row]


def data_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """u8[H, W, 3] as a JPEG data URI whose longest side is `side` pixels."""
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    file = io.BytesIO()
    enlarged = picture.resize((width, height), Image.Resampling.BICUBIC)
    enlarged.save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _find(data: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The examples with these ids in a config's data source. Errors are the source's own."""
    from vlm_jax.data.sources import make_source  # late: data sets bring heavy imports

    source, found = make_source(data), {}
    for i in range(len(source)):
        if len(found) == len(wanted):
            break
        example = source[i]
        if example["id"] in wanted:
            found[example["id"]] = example
    return found


def _image_id(row: Row) -> str:
    """The id of a question is its image's with "/" and a number behind it."""
    return row["id"].rpartition("/")[0] if "answer" in row else row["id"]


# --- which predictions are shown: groups of rows, one group per card ------------------------------
def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _pictures(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of some pictures, up to QUESTIONS of each."""
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(_image_id(row), []).append(row)
    return [group[:QUESTIONS] for group in _spread(list(by_image.values()), PICTURES)]


def _queries(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row] for row in _spread(rows, QUERIES)]


# --- what a card shows ----------------------------------------------------------------------------
def _caption_card(rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
    """Picture, generated caption, true captions."""
    image = rows[0]["id"]
    true = examples.get(image, {}).get("captions", ())
    return {"picture": _picture(image, examples), "caption": rows[0]["caption"], "true": true}


def _answer_card(rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
    """Picture with questions, each with the answer given, the true ones and the score."""
    image = _image_id(rows[0])
    asked = examples.get(image, {}).get("questions", ())
    true = {question["question"]: question["answers"] for question in asked}
    answers = [_answer(row["question"], row["answer"], true.get(row["question"])) for row in rows]
    return {"picture": _picture(image, examples), "answers": answers}


def _label_card(rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
    """Picture with the class given and the true one."""
    image, given = rows[0]["id"], rows[0]["label"]
    label = examples.get(image, {}).get("label")
    answers = [_answer("", given, [label] if label else None)]
    return {"picture": _picture(image, examples), "answers": answers}


def _answer(question: str, given: str, true: Sequence[str] | None) -> dict[str, Any]:
    """score: in [0, 1], None if the truth is not known. true: distinct answers."""
    score = vqa_accuracy_score(given, true) if true else None
    return {
        "question": question,
        "given": given,
        "true": list(dict.fromkeys(true or ())),
        "score": score,
    }


def _query_card(rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
    """A text, the images found for it, best first, and the one it was written for if it is not
    among them.
    """
    text, image, found = rows[0].get("text", ""), rows[0]["id"], rows[0]["hits"]
    right = lambda hit: hit == image or text in examples.get(hit, {}).get("captions", ())
    hits = [{"picture": _picture(hit, examples), "right": right(hit)} for hit in found]
    missed = None if image in found else _picture(image, examples)
    return {"text": text, "hits": hits, "missed": missed}


def _drawn_card(rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
    """A text, the picture drawn for it, whether that is right if it is known, and the true one."""
    row = rows[0]
    drawn: dict[str, str | None] = {"id": row["drawn"], "uri": None}
    try:
        drawn["uri"] = data_uri(np.asarray(Image.open(row["folder"] / row["drawn"]).convert("RGB")))
    except (OSError, ValueError) as error:
        logging.warning("the report lacks a drawn picture: %s", error)
    true = _picture(row["id"], examples)
    return {"text": row.get("text", ""), "drawn": drawn, "right": row.get("right"), "true": true}


def _picture(image: str, examples: Examples) -> dict[str, str | None]:
    """Id and data URI of an example's image, or of the spectrogram of one that is only a sound; the
    URI is None without the example or its pixels, and of words alone.
    """
    from vlm_jax.data import audio, images

    uri = None
    if image in examples:
        shown = examples[image]["image"]
        try:
            if shown is not audio.no_picture:
                uri = data_uri(images.decode(shown))
            elif "audio" in examples[image]:
                uri = data_uri(audio.picture(examples[image]["audio"]))
        except (OSError, ValueError, TypeError) as error:
            logging.warning("the report has no picture of example %s: %s", image, error)
    return {"id": image, "uri": uri}


Choose = Callable[[list[Row]], list[list[Row]]]
MakeCard = Callable[[Sequence[Row], Examples], dict[str, Any]]

KINDS: dict[str, tuple[Choose, MakeCard]] = {
    "caption": (_pictures, _caption_card),
    "answer": (_pictures, _answer_card),
    "label": (_pictures, _label_card),
    "hits": (_queries, _query_card),
    "drawn": (_pictures, _drawn_card),
}
"""The key that tells what a prediction is -> how some are chosen, and how they are shown."""
