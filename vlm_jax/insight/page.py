"""Explanations as a folder: a PNG per word, a page that shows them, and the numbers as JSON."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_jax.api import Image, Model
from vlm_jax.gallery import EXPLANATION, explained
from vlm_jax.insight import maps
from vlm_jax.insight.explain import METHODS, Explainer, Explanation, LeftOut
from vlm_jax.insight.subject import NothingSeen
from vlm_jax.report import environment
from vlm_jax.workdir import atomic_write_text

FILE = "index.html"


def explain_to(
    folder: str | Path,
    model: Model,
    image: Image,
    *,
    question: str | None = None,
    text: str | None = None,
    methods: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Explain a picture by several methods, write `folder`/index.html with its PNGs, and return
    what `write` does.

    methods: None for all that this model has something for; NothingSeen if there is none, and for
    one that is asked for by name and has nothing to say. Other errors as in `Explainer.explain`.
    """
    explainer, found = Explainer(model), []
    for method in methods or METHODS:
        try:
            one = explainer.explain(image, question=question, text=text, method=method)
        except NothingSeen:
            if methods:
                raise
            continue
        text, found = one.text, [*found, one]
    if not found:
        raise NothingSeen(
            "no part of this picture counts for what is said more than another, by any method: the "
            "model does not look at it, or says the same of every picture"
        )
    left_out: list[LeftOut] = []
    if question is not None:
        left_out = explainer.without_words(image, question=question, text=text)
    return write(Path(folder), found, left_out)


def write(
    folder: Path, found: Sequence[Explanation], left_out: Sequence[LeftOut] = ()
) -> dict[str, Any]:
    """Explanations of one text and picture as PNGs, explanation.json and index.html.

    Returns what explanation.json holds: question, text, picture (a file name), methods (each with
    its words: text, score, file) and left_out (word, drop).
    """
    maps.save(folder / "picture.png", found[0].picture)
    methods = []
    for one in found:
        shown = []
        for i, word in enumerate(one.words):
            slug = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") or "text"
            name = f"{one.method}-{i:02d}-{slug[:40]}.png"
            maps.save(folder / name, maps.overlay(one.picture, one.heat[i]))
            shown.append({"text": word, "score": round(float(one.scores[i]), 4), "file": name})
        methods.append({"method": one.method, "words": shown})
    contents = {
        "question": found[0].question,
        "text": found[0].text,
        "picture": "picture.png",
        "methods": methods,
        "left_out": [{"word": w.word, "drop": round(w.drop, 4)} for w in left_out],
    }
    atomic_write_text(folder / EXPLANATION, json.dumps(contents, ensure_ascii=False, indent=1))
    page = environment().get_template("why.html.jinja")
    atomic_write_text(folder / FILE, page.render(title=folder.name, shown=explained(folder)))
    return contents
