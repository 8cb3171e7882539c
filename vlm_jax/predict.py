"""What a model says about what the command line gives it: `--mode=predict`."""

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import api, workdir
from vlm_jax.data import images
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.schema import Example
from vlm_jax.data.turns import marks, pictures_of
from vlm_jax.data.video_images import VideoFile, shown_frames
from vlm_jax.tasks.vqa import commonest_answer


def prediction(loaded: api.Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed as JSON. options: flags by name, None for those that were not given.

    ValueError for flags that say nothing together, or ask for what the model cannot do.
    """
    given = {name for name, value in options.items() if value is not None} - {"pretrained"}
    asked = {name: options[name] for name in sorted(given)}
    if given == {"image"}:
        return asked | _about_image(loaded, options["image"])
    if given == {"images"}:
        paths = [str(path) for path in images.find(options["images"])]
        rows = [{"image": path} | _about_image(loaded, path) for path in paths]
        return asked | {"predictions": rows}
    both = given == {"image", "text"} and {"fill", "classify"} & {*loaded.abilities}
    if given == {"text"} or both:
        return asked | _about_text(loaded, options["text"], options.get("image"))
    if given == {"image", "question"}:
        return asked | {"answer": loaded.answer(options["image"], options["question"])}
    if given == {"text", "images"}:
        paths = images.find(options["images"])
        return {"text": options["text"], "ranking": loaded.rank(options["text"], paths)}
    if given == {"image", "texts"}:
        ranking = loaded.rank_texts(options["image"], lines(options["texts"]))
        return {"image": options["image"], "ranking": ranking}
    if given in ({"audio", "texts"}, {"audio", "images"}):
        return _about_audio(loaded, options)
    if given in ({"video"}, {"video", "question"}):
        return _about_video(loaded, options)
    if {"video", "summary"} <= given <= {"video", "summary", "out"}:
        return _summary(loaded, options)
    if {"data"} <= given <= {"data", "out"}:
        return asked | _conversations(loaded, options["data"], options.get("out"))
    if {"text", "out"} <= given <= {"text", "out", "samples", "judge"}:
        return {"text": options["text"], "out": _draw(loaded, options)}
    raise ValueError(
        "--mode=predict takes --image, --image with --question, --text with --images, "
        "--image with --texts, --audio with --texts or --images, --video, perhaps with "
        "--question or --summary, --text with --out, --data of conversations, --images alone, "
        "--text alone to be gone on with, or --text with --image to fill blanks or to classify "
        "both; this model can: "
        f"{', '.join(loaded.abilities)}"
    )


def _about_image(loaded: api.Model, path: str) -> dict[str, Any]:
    """A caption, or the likeliest classes of models that only classify."""
    if "caption" not in loaded.abilities and "classify" in loaded.abilities:
        return {"classes": loaded.classify(path)}
    return {"caption": loaded.caption(path)}


def _about_text(loaded: api.Model, text: str, image: str | None) -> dict[str, Any]:
    """What the blanks of a text are, of which class it is, by itself or with a picture, or how it
    goes on; ValueError for a model that does none of it.
    """
    for ability, name in (("fill", "blanks"), ("classify", "classes")):
        if ability in loaded.abilities:
            return {name: getattr(loaded, ability)(text=text, image=image)}
    return {"completion": loaded.complete(text)}


def lines(path: str) -> list[str]:
    """The lines of a file that are not blank."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _about_audio(loaded: api.Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """The lines of --texts, or the pictures of --images, from best to worst for --audio."""
    found: dict[str, Any] = {"texts": lines(options["texts"])} if options.get("texts") else {}
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


def _conversations(loaded: api.Model, data: str, out: str | None) -> dict[str, Any]:
    """What the model says in the turns of --data that have no answers, in --out a conversation a
    line, else in the result; how many there are, and in how many something went wrong.

    --out is replaced when all is said; until then, what was said so far is in --out.part.
    ValueError if every turn has an answer.
    """
    source, rows = Jsonl(data, answered=False), []
    chat, written = loaded.chat(), 0
    part = f"{out}.part" if out else os.devnull
    with open(part, "w", encoding="utf-8") as file:
        for number in range(len(source)):
            row, count = _answered(chat, source[number])
            written += count
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
    failed = sum("error" in row for row in rows)
    if out and (written or failed):
        os.replace(part, out)
    elif out:
        os.remove(part)
    if not written and not failed:
        raise ValueError(
            f"{data}: every turn has answers, so there is nothing to say: leave out the answers of "
            "those that are to be answered, or score the model with --mode=eval --data"
        )
    found = {} if out else {"conversations": rows}
    return found | {"n": len(rows), "answered": written, "errors": failed}


def _answered(chat: Any, example: Example) -> tuple[dict[str, Any], int]:
    """A conversation with what the model says where there is no answer, up to the first turn that
    cannot be read; and how often it says something.
    """
    chat.reset()
    row: dict[str, Any] = {"id": example["id"], "turns": []}
    shown, written = iter(pictures_of(example)), 0
    for question, count in zip(example["questions"], marks(example), strict=True):
        text, pictures = question["question"], list(itertools.islice(shown, count))
        turn: dict[str, Any] = {"question": text}
        try:
            if question["answers"]:
                turn |= {"answer": commonest_answer(question), "given": True}
                chat.recall(text, turn["answer"], pictures)
            else:
                turn |= {"answer": chat.say(text, pictures)}
                written += 1
        except ValueError as error:
            row["error"] = f"{text!r}: {error}"
            break
        row["turns"].append(turn)
    return row, written
