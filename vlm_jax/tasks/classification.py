"""Classification of an image, or of an image or several with a text, by accuracy, precision, recall
and F1.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlm_jax import metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.data.turns import pictures_of
from vlm_jax.losses import softmax_cross_entropy
from vlm_jax.metrics.classification import softmax
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Classification:
    """labels: the C classes, values of example["label"]. The text beside the image is the example's
    first caption.

    length: tokens of that text. pictures: how many each example has; None: as many as are read.
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    length: int = 32
    label_smoothing: float = 0.0
    pictures: int | None = None
    head: ClassVar[str] = "classify"
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image", "label")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """Text and class index; DataError if the label is missing or not among `labels`."""
        label = self.labels.index(label_of(example, self.labels))
        return self.query(example) | {"label": np.int32(label)}

    def query(self, example: Example) -> Arrays:
        """The text beside the image. DataError for another number of `pictures`."""
        shown = len(pictures_of(example))
        if self.pictures not in (None, shown):
            raise DataError(f"{shown} pictures, but each text is about {self.pictures} of them")
        text = example["captions"][0] if example["captions"] else ""
        return encoder_text(self.tokenizer, text, self.length)

    def classify(self, run: Any, source: Source, top: int) -> dict[int, list[dict[str, Any]]]:
        """The `top` likeliest classes of each example, by position, best first, as {"label",
        "score", "index"}; score is a probability.
        """
        found = {}
        for position, row in run.rows("classify", source, self.query):
            chances = softmax(row["logits"])
            best = [int(i) for i in np.argsort(-chances, kind="stable")[:top]]
            found[position] = [
                {"label": self.labels[i], "score": float(chances[i]), "index": i} for i in best
            ]
        return found

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: cross-entropy of the class."""
        return softmax_cross_entropy(
            outputs["logits"], batch["label"], label_smoothing=self.label_smoothing
        )

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Accuracy, precision, recall and F1 over every example with a known class;
        `accuracy/majority` always says the commonest.
        """
        labelled = lambda example: self.preprocess(example, None)  # DataError: skipped and counted
        given = {
            i: self.labels[int(np.argmax(row["logits"]))]
            for i, row in run.rows("classify", source, labelled, **options)
        }
        true = [source[i].get("label") for i in given]
        run.save_predictions(
            [{"id": source[i]["id"], "label": label} for i, label in given.items()]
        )
        as_numbers = lambda names: np.array([self.labels.index(name) for name in names])
        measure = metrics.classification_measure(
            as_numbers(true), as_numbers(given.values()), len(self.labels)
        )
        yield from metrics.score([measure]).items()
        yield "accuracy/majority", Counter(true).most_common(1)[0][1] / len(true)
        yield "n", float(len(true))


def label_of(example: Example, labels: Sequence[str]) -> str:
    """The example's class; DataError if it has none, or one that is not among `labels`."""
    label = example.get("label")
    if label is None or label not in labels:
        raise DataError(
            f"example {example['id']} has label {label!r}, which is not among the "
            f"{len(labels)} classes"
        )
    return label
