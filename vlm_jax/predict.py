"""What a model says about what the command line gives it: `--mode=predict`."""

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import api, workdir
from vlm_jax.data import images
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.schema import DataError, Example
from vlm_jax.data.turns import marks, pictures_of
from vlm_jax.data.video_images import VideoFile, shown_frames
from vlm_jax.gallery import read_rows
from vlm_jax.tasks.vqa import commonest_answer

GROUP = 64
"""Pictures of a folder that are asked about at a time."""

Row = dict[str, Any]


def prediction(
    loaded: api.Model, options: Mapping[str, Any], folder: str | None = None
) -> dict[str, Any]:
    """What is printed as JSON. options: flags by name, None for those that were not given. folder:
    where the model comes from.

    ValueError for flags that say nothing together, or ask for what the model cannot do.
    """
    given = {name for name, value in options.items() if value is not None} - {"pretrained"}
    asked = {name: options[name] for name in sorted(given)}
    if given == {"image"}:
        return asked | _about_image(loaded, options["image"])
    if {"images"} <= given <= {"images", "question", "out"}:
        return asked | _each_picture(loaded, options, _made(folder, asked))
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
        return asked | _conversations(loaded, options, _made(folder, asked))
    if {"text", "out"} <= given <= {"text", "out", "samples", "judge"}:
        return {"text": options["text"], "out": _draw(loaded, options)}
    raise ValueError(
        "--mode=predict takes --image, --image with --question, --text with --images, "
        "--image with --texts, --audio with --texts or --images, --video, perhaps with "
        "--question or --summary, --text with --out, --data of conversations, --images, perhaps "
        "with --question, either perhaps with --out, "
        "--text alone to be gone on with, or --text with --image to fill blanks or to classify "
        "both; this model can: "
        f"{', '.join(loaded.abilities)}"
    )


def _about_image(loaded: api.Model, path: str) -> dict[str, Any]:
    """A caption, or the likeliest classes of models that only classify."""
    return _about_images(loaded, [path], None)[0]


def _about_images(loaded: api.Model, paths: list[Any], question: str | None) -> list[Row]:
    """The same of several pictures, or the answer of each to a question."""
    if not paths:
        return []
    if question is not None:
        return [{"answer": one} for one in loaded.answer(paths, question)]
    if "caption" not in loaded.abilities and "classify" in loaded.abilities:
        return [{"classes": one} for one in loaded.classify(paths)]
    return [{"caption": one} for one in loaded.caption(paths)]


def _each_picture(loaded: api.Model, options: Mapping[str, Any], made: Row) -> Row:
    """What is said about every picture of --images, in --out a picture a line, else in the result;
    how many there are, and how many cannot be read.
    """
    paths = [str(path) for path in images.find(options["images"])]
    question = options.get("question")

    def told(names: list[str], broken: Mapping[str, str]) -> list[Row]:
        sound = [name for name in names if name not in broken]
        found = dict(zip(sound, _about_images(loaded, sound, question), strict=True))
        return [{"image": x} | (found.get(x) or {"error": broken[x]}) for x in names]

    def say(some: slice) -> list[Row]:
        try:
            return told(paths[some], {})
        except DataError:
            broken = {path: error for path in paths[some] if (error := _unreadable(path))}
            if not broken:
                raise
            return told(paths[some], broken)

    rows = _kept(options.get("out"), made, "image", paths, say, GROUP)
    failed = sum("error" in row for row in rows)
    found = {} if options.get("out") else {"predictions": rows}
    return found | {"n": len(rows), "errors": failed}


def _unreadable(path: str) -> str | None:
    """Why a picture cannot be read, None if it can."""
    try:
        images.decode(path)
    except DataError as error:
        return str(error)
    return None


def _made(folder: str | None, asked: Row) -> Row:
    """What rows were made of, as JSON: the model, as it is now, and what it is asked."""
    files: list[Path] = []
    if folder is not None:
        where = Path(folder)
        files = sorted(where.glob("checkpoints/*")) or sorted(where.glob("*.*"))
    changed = [[file.name, file.stat().st_mtime_ns] for file in files]
    return {"model": str(folder), "changed": changed, "asked": asked}


def _kept(
    out: str | None,
    made: Row,
    key: str,
    names: Sequence[str],
    say: Callable[[slice], list[Row]],
    group: int = 1,
) -> list[Row]:
    """What `say` returns for the places of `names`, `group` at a time, each row with its name under
    `key`.

    With `out`, a line each: until all is said in out.part, from which the same model, asked the
    same, goes on; then in `out`, which is replaced at once.
    """
    part = Path(f"{out}.part")
    rows = _before(part, made, key, names) if out else []
    if rows:
        print(f"{part}: goes on after {len(rows):,} of {len(names):,}", file=sys.stderr, flush=True)
    with open(part if out else os.devnull, "w", encoding="utf-8") as file:
        write = lambda row: print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
        for row in ({"made": made}, *rows):
            write(row)
        for start in range(len(rows), len(names), group):
            for row in say(slice(start, start + group)):
                rows.append(row)
                write(row)
            if len(names) > group:
                print(f"{len(rows):,} of {len(names):,}", file=sys.stderr, flush=True)
    if out:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        workdir.atomic_write_text(out, text)
        part.unlink()
    return rows


def _before(part: Path, made: Row, key: str, names: Sequence[str]) -> list[Row]:
    """The rows of `names`, from the first on, that an interrupted run of the same left behind."""
    heads = read_rows(part, "made")
    if not heads or heads[0]["made"] != made:
        return []
    pairs = zip(read_rows(part, key), names, strict=False)
    same = itertools.takewhile(lambda pair: pair[0][key] == pair[1], pairs)
    return [row for row, _ in same]


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


def _conversations(loaded: api.Model, options: Mapping[str, Any], made: Row) -> Row:
    """What the model says in the turns of --data that have no answers, in --out a conversation a
    line, else in the result; how many there are, and in how many something went wrong.

    ValueError if every turn has an answer.
    """
    data, out = options["data"], options.get("out")
    source, chat = Jsonl(data, answered=False), loaded.chat()
    ids, asked = [], 0
    for number in range(len(source)):
        example = source[number]
        ids.append(example["id"])
        asked += sum(not question["answers"] for question in example["questions"])
    if not asked:
        raise ValueError(
            f"{data}: every turn has answers, so there is nothing to say: leave out the answers of "
            "those that are to be answered, or score the model with --mode=eval --data"
        )
    rows = _kept(out, made, "id", ids, lambda i: [_answered(chat, source[i.start])])
    written = sum(not turn.get("given") for row in rows for turn in row["turns"])
    found = {} if out else {"conversations": rows}
    return found | {
        "n": len(rows),
        "answered": written,
        "errors": sum("error" in row for row in rows),
    }


def _answered(chat: Any, example: Example) -> Row:
    """A conversation with what the model says where there is no answer, up to the first turn that
    cannot be read.
    """
    chat.reset()
    row: Row = {"id": example["id"], "turns": []}
    shown = iter(pictures_of(example))
    for question, count in zip(example["questions"], marks(example), strict=True):
        text, pictures = question["question"], list(itertools.islice(shown, count))
        turn: dict[str, Any] = {"question": text}
        try:
            if question["answers"]:
                turn |= {"answer": commonest_answer(question), "given": True}
                chat.recall(text, turn["answer"], pictures)
            else:
                turn |= {"answer": chat.say(text, pictures)}
        except ValueError as error:
            row["error"] = f"{text!r}: {error}"
            break
        row["turns"].append(turn)
    return row
