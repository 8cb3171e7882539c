"""Pictures that an evaluation draws: kept for the report, and judged where it is known what they
should show.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax import metrics, processes
from vlm_jax.data.images import encode_png
from vlm_jax.data.scene_prompts import judge, of_scene
from vlm_jax.data.schema import Example, Source
from vlm_jax.workdir import atomic_write_bytes

JUDGED = ("count", "colours", "shapes", "right")
"""Fields of `scene_prompts.Judged` that are reported; without a relation, `objects` is `right`."""


def first_of(source: Source, count: int) -> list[Example]:
    """At most `count` examples from the front of a source."""
    return [source[i] for i in range(min(count, len(source)))]


def draw_and_judge(
    run: Any,
    draw: Callable[[Sequence[str]], np.ndarray],
    examples: Sequence[Example],
    told: Callable[[Example], str],
) -> Iterator[tuple[str, metrics.Score]]:
    """Draws what is told of each example, uint8[n, H, W, 3], and keeps the pictures.

    Of built-in scenes drawn_count, drawn_colours, drawn_shapes and drawn_right, the shares of
    pictures in which `scene_prompts.judge` finds them as the text says; beside each what the next
    example's picture gives (`/other_text`).
    """
    if not examples:
        return
    texts = [told(example) for example in examples]
    pictures = draw(texts)
    rows: list[dict[str, Any]] = [
        {"id": example["id"], "text": text} for example, text in zip(examples, texts, strict=True)
    ]
    if all("scene" in example for example in examples):
        own, other = judged(pictures, examples), judged(np.roll(pictures, -1, axis=0), examples)
        for row, right in zip(rows, own["right"], strict=True):
            row["right"] = bool(right)
        measures = []
        for name in JUDGED:
            measures.append(metrics.mean_of(f"drawn_{name}", own[name]))
            measures.append(metrics.mean_of(f"drawn_{name}/other_text", other[name]))
        yield from metrics.score(measures).items()
    keep(run, rows, pictures)


def keep(run: Any, rows: Sequence[Mapping[str, Any]], pictures: np.ndarray) -> None:
    """Saves predictions with a picture each, uint8[n, H, W, 3]: PNG files beside them, which each
    row's "drawn" names.
    """
    path = run.predictions
    if path is None:
        return
    named = [dict(row, drawn=f"{path.stem}/{number}.png") for number, row in enumerate(rows)]
    if processes.is_first():
        (path.parent / path.stem).mkdir(parents=True, exist_ok=True)
        for row, pixels in zip(named, pictures, strict=True):
            atomic_write_bytes(path.parent / row["drawn"], encode_png(pixels))
    run.save_predictions(named)


def judged(pictures: np.ndarray, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Which of the pictures u8[n, S, S, 3] show what the scenes do: 0 or 1 for each, by the names
    of JUDGED.
    """
    found = [judge(*pair) for pair in zip(pictures, map(of_scene, examples), strict=True)]
    return {name: np.array([getattr(one, name) for one in found], float) for name in JUDGED}
