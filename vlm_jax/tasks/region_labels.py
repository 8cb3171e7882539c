"""Region labels: which words describe what lies at each place of the image grid."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vlm_jax import metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays
from vlm_jax.kwargs import Number, Pair, pair
from vlm_jax.losses import masked_cross_entropy
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class RegionLabels:
    """Every image token inside a labelled box says what the box holds, before any text is read.

    The region label classification of LXMERT (arXiv:1908.07490, section 3.1.2) on a grid instead of
    detected regions: it teaches an image encoder words at their places, which questions and
    captions teach slowly. Pictures must come uncropped and unmirrored, as their boxes are.

    kinds: kind of label to its words, as in example["regions"]; config.model.regions.classes has
    the same kinds, each with the number of its words. grid: rows and columns of the image tokens,
    one number for as many of both. pictures: how many an example has (see
    `data.pipeline.InputReader`), rows * columns tokens each.
    """

    tokenizer: Tokenizer
    kinds: Mapping[str, tuple[str, ...]]
    grid: Pair
    pictures: int = 1
    head: ClassVar[str] = "label_regions"
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image", "regions")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """region_labels i32[G, S] and region_mask bool[G, S] in the order of `kinds`: tokens whose
        centre is in the box, or the one where the box's centre is if there are none; of boxes that
        overlap, the later one counts. DataError if the example has no regions.
        """
        regions = example.get("regions")
        if not regions:
            raise DataError(f"example {example['id']} has no regions, whose labels are learned")
        grid = pair(self.grid)
        shape = (len(self.kinds), self.pictures, *grid)
        labels, known = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for region in regions:
            x0, y0, x1, y1 = region["box"]
            rows, columns = _covered(y0, y1, grid[0]), _covered(x0, x1, grid[1])
            inside = np.zeros(shape[1:], bool)
            inside[region.get("picture", 0)] = rows[:, None] & columns[None]
            for number, (kind, words) in enumerate(self.kinds.items()):
                if region["labels"].get(kind) in words:
                    labels[number][inside] = words.index(region["labels"][kind])
                    known[number] |= inside
        flat = (len(self.kinds), -1)
        return {"region_labels": labels.reshape(flat), "region_mask": known.reshape(flat)}

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: cross-entropy per labelled token, summed over the kinds."""
        losses = [
            masked_cross_entropy(
                outputs[f"region_{kind}"],
                batch["region_labels"][:, number],
                batch["region_mask"][:, number],
            )
            for number, kind in enumerate(self.kinds)
        ]
        return jnp.sum(jnp.stack(losses), axis=0)

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Share in [0, 1] of labelled tokens with the right word, by kind; chance is one over the
        number of words.
        """
        right: dict[str, list[int]] = {kind: [] for kind in self.kinds}
        count: dict[str, list[int]] = {kind: [] for kind in self.kinds}
        truth = lambda example: self.preprocess(example, None)
        for index, row in run.rows("label_regions", source, truth):
            true = truth(source[index])
            for number, kind in enumerate(self.kinds):
                given = row[f"region_{kind}"].argmax(axis=-1)
                known = true["region_mask"][number]
                right[kind].append(int((given == true["region_labels"][number])[known].sum()))
                count[kind].append(int(known.sum()))
        for kind, words in self.kinds.items():
            if any(count[kind]):
                shares = np.array(right[kind]), np.array(count[kind])
                yield from metrics.score([metrics.mean_of(f"accuracy/{kind}", *shares)]).items()
                yield f"accuracy/{kind}/chance", 1 / len(words)


def _covered(start: Number, end: Number, count: int) -> np.ndarray:
    """Which of `count` equal parts of [0, 1] have their centre between start and end, bool[count];
    the one around its middle if none has.
    """
    centres = (np.arange(count) + 0.5) / count
    covered = (centres >= start) & (centres < end)
    middle = int((start + end) / 2 * count)
    if not covered.any() and middle < count:
        covered[middle] = True
    return covered
