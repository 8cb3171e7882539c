"""configs/retrieval/lit_kit.py beside a ridge map of the same vectors, and on Tux Paint's stamps.

    python -m benchmarks.lit_kit runs/lit_kit [--stamps] [--docs docs/retrieval.md] [--json]

The ridge map (Hoerl and Kennard, 1970) goes from image vectors to text vectors of unit length;
`--strength` is its penalty. --stamps: zero-shot on the stamps, in English and in ten languages
that the text tower was not trained on (see vlm_jax/data/stamps.py for how to fetch them).
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import vlm_jax
from benchmarks import sections
from vlm_jax import features, metrics
from vlm_jax.data.sources import make_source
from vlm_jax.data.stamps import Stamps

LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "ru", "el", "ja", "zh_cn")


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def vectors(source: Any) -> "Vectors":
    """Images [n, D], texts [n, E] and captions of a source with features; one caption each."""
    rows = [example for i in range(len(source)) if "features" in (example := source[i])]
    images = np.stack([row["features"]["pooled"] for row in rows])
    texts = np.stack([row["text_features"][0] for row in rows])
    return images, texts, [row["captions"][0] for row in rows]


def ridge(images: np.ndarray, texts: np.ndarray, strength: float) -> Any:
    """The map of images that comes nearest to the texts' unit vectors."""
    wanted = unit(texts)
    mean = wanted.mean(0)
    penalised = images.T @ images + strength * np.eye(images.shape[1])
    weights = np.linalg.solve(penalised, images.T @ (wanted - mean))
    return lambda x: x @ weights + mean


def recall(images: np.ndarray, texts: np.ndarray, captions: list[str]) -> list[float]:
    """R@1, 5, 10 from image to text, then back; images with equal captions count for each other."""
    distinct = {text: row for row, text in reversed(list(enumerate(captions)))}
    column = {text: number for number, text in enumerate(distinct)}
    positives = [[column[text]] for text in captions]
    found = metrics.retrieval_metrics(unit(images), unit(texts)[list(distinct.values())], positives)
    ways = ("image_to_text", "text_to_image")
    return [round(100 * float(found[f"{way}/R@{k}"]), 1) for way in ways for k in (1, 5, 10)]


Vectors = tuple[np.ndarray, np.ndarray, list[str]]


def zero_shot(train: dict[str, Any]) -> Iterator[tuple[str, Vectors]]:
    """Each language, and the `vectors` of the stamps that have a name in it; the pictures are those
    of the English names and encoded once.
    """
    pictures = features.cached(Stamps("en"), vision=train["vision"], image=train["image"])
    rows: Any = [pictures[i] for i in range(len(pictures))]
    known = {row["id"]: row["features"]["pooled"] for row in rows if "features" in row}
    for language in LANGUAGES:
        named = features.cached(Stamps(language), text=train["text"], length=32)
        rows = [row for i in range(len(named)) if (row := named[i])["id"] in known]
        images = np.stack([known[row["id"]] for row in rows])
        texts = np.stack([row["text_features"][0] for row in rows])
        yield language, (images, texts, [row["captions"][0] for row in rows])


Rows = dict[str, dict[str, list[float]]]
"""Of each set, the recalls of each map."""


def compared(workdir: str, strength: float, stamps: bool) -> Rows:
    """The trained map and the ridge map on the sets of the run's config, and on the stamps."""
    model = vlm_jax.load(workdir)
    config = model.run.experiment.config
    kernel = np.asarray(model.run.variables["params"]["contrast_head"]["image"]["kernel"])
    train = dict(config["data"]["train"])
    linear = ridge(*vectors(make_source(train))[:2], strength)
    maps = {"ridge": linear, "trained": lambda x: x @ kernel}
    rows: Rows = {}
    for name, section in config["evals"].items():
        images, texts, captions = vectors(make_source(section["data"]))
        rows[name] = {kind: recall(f(images), texts, captions) for kind, f in maps.items()}
    for language, (images, texts, captions) in zero_shot(train) if stamps else ():
        key = f"stamps/{language} ({len(captions)} pictures, {len(set(captions))} texts)"
        rows[key] = {kind: recall(f(images), texts, captions) for kind, f in maps.items()}
    return rows


def page(rows: Rows, command: str) -> str:
    """The recalls as Markdown."""
    ways = ("image to text", "text to image")
    head = ["set", "map", *(f"{way} R@{k}" for way in ways for k in (1, 5, 10))]
    lines = [(name, kind, *x) for name, found in rows.items() for kind, x in found.items()]
    return (
        f"## Real parts, zero-shot\n\n    {command}\n\nThe text tower has read English alone: what "
        "other languages score above chance, they owe to words and letters that they share with "
        f"it.\n\n{sections.table(head, lines)}\n"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--strength", type=float, default=60.0)
    parser.add_argument("--stamps", action="store_true")
    parser.add_argument("--docs", help="a page in which to write the table")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = compared(options.workdir, options.strength, options.stamps)
    if options.docs:
        command = f"python -m benchmarks.lit_kit {options.workdir}" + " --stamps" * options.stamps
        sections.write("lit", page(rows, command), options.docs)
    if options.json:
        print(json.dumps(rows))
        return
    print("R@1/5/10, image -> text, then text -> image")
    for name, found in rows.items():
        for kind, scores in found.items():
            print(f"{name:44} {kind:8}" + "".join(f"{score:7.1f}" for score in scores))


if __name__ == "__main__":
    main()
