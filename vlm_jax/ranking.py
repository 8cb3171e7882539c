"""Pictures for a text, or texts for a picture, in order: by a shared space, by reading both
together, or by the one and then, of the best, by the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.data import in_memory
from vlm_jax.data.schema import DataError
from vlm_jax.metrics.recall import products
from vlm_jax.tasks.matching import match_scores


def ranked(model: Any, kind: str, images: list[Any], texts: list[str]) -> list[dict[str, Any]]:
    """One text's images, or one image's texts, from best to worst; see `loaded.Model.rank`.

    model: a `loaded.Model`. kind: "image" or "text", which of them is put in order. ValueError for
    a model that cannot; DataError naming a picture that cannot be read.
    """
    task = model.task("text", "rank")
    called = names(images) if kind == "image" else list(texts)
    if not task.contrast:
        pairs = np.argwhere(np.ones((len(images), len(texts)), bool))
        return rows_of(_matched(model, task, images, texts, pairs), kind, called)
    vectors = model.embed_image(images), model.embed_text(texts)
    rows = rows_of(products(*vectors).reshape(-1), kind, called)
    best = rows[: 0 if task.matching is None else task.matching.rerank]
    if not best:
        return rows
    pairs = [(row["index"], 0) if kind == "image" else (0, row["index"]) for row in best]
    found = _matched(model, task, images, texts, np.array(pairs))
    for row, logit in zip(best, found, strict=True):
        row["match"] = round(float(logit) + row["score"], 6)
    return sorted(best, key=lambda row: -row["match"]) + rows[len(best) :]


def _matched(
    model: Any, task: Any, images: list[Any], texts: list[str], pairs: Int[np.ndarray, "P 2"]
) -> Float[np.ndarray, " P"]:
    """Logits that pairs (number of the image, of the text) belong together."""
    model.fit(len(np.unique(pairs[:, 0])))
    model.run.skipped.reasons.clear()
    found = match_scores(model.run, task, in_memory.pictures(images), texts, pairs)
    if not np.isfinite(found).all():
        raise DataError("; ".join(model.run.skipped.reasons))
    return found


def rows_of(
    scores: Float[np.ndarray, " n"], kind: str, called: Sequence[str | None]
) -> list[dict[str, Any]]:
    """{kind: name, "index", "score"}, best first; equal scores keep the order given."""
    order = np.argsort(-scores, kind="stable")
    return [{kind: called[i], "index": int(i), "score": round(float(scores[i]), 6)} for i in order]


def names(images: Sequence[Any]) -> list[str | None]:
    """The paths of pictures that have one."""
    return [str(image) if isinstance(image, str | Path) else None for image in images]
