"""Masked-word modelling and image-text matching: the pre-training of VisualBERT and its kin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vlm_jax import metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.losses import masked_cross_entropy, softmax_cross_entropy
from vlm_jax.tasks.text_to_image import generator_of
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class MaskedPretraining:
    """BERT's masking (arXiv:1810.04805, section 3.1) with matching as in VisualBERT
    (arXiv:1908.03557, section 3.2).

    mask_rate: share of words to predict; of these 80 % are hidden, 10 % replaced by a random word,
    10 % kept. mismatch_rate: share of examples shown the text of another image. match_weight:
    weight of the matching loss.
    """

    tokenizer: Tokenizer
    length: int = 32
    mask_rate: float = 0.15
    mismatch_rate: float = 0.5
    match_weight: float = 1.0
    head: ClassVar[str] = "reconstruct"
    texts: ClassVar[str | None] = None

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A caption with masked words; without rng the masks are drawn from a fixed seed, the same
        in every evaluation.
        """
        captions = example["captions"]
        if not captions:
            raise DataError(
                f"example {example['id']} has no caption, which pre-training learns from"
            )
        if self.tokenizer.mask is None:
            raise ValueError(
                "masked pre-training needs a tokenizer with a [MASK] token; this one has none"
            )
        caption = captions[0 if rng is None else rng.integers(len(captions))]
        rng = rng or generator_of(example)
        inputs = encoder_text(self.tokenizer, caption, self.length)
        tokens, real = inputs["text"], inputs["text_mask"]
        special = (tokens == self.tokenizer.bos) | (tokens == self.tokenizer.eos)
        candidates = np.flatnonzero(real & ~special)
        count = min(len(candidates), max(1, round(self.mask_rate * len(candidates))))
        chosen = rng.choice(candidates, count, replace=False) if count else candidates
        fate = rng.random(len(chosen))
        shown = tokens.copy()
        shown[chosen[fate < 0.8]] = self.tokenizer.mask
        replaced = chosen[fate >= 0.9]
        shown[replaced] = rng.integers(1, self.tokenizer.size, len(replaced))
        predicted = np.zeros(self.length, bool)
        predicted[chosen] = True
        return {
            "text": shown,
            "text_mask": real,
            "targets": tokens,
            "targets_mask": predicted,
            "matched": np.bool_(rng.random() >= self.mismatch_rate),
        }

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: masked words of matched pairs (a wrong image says nothing about them), plus
        matching for all.
        """
        words = masked_cross_entropy(
            outputs["word_logits"], batch["targets"], batch["targets_mask"]
        )
        match = softmax_cross_entropy(outputs["match_logits"], batch["matched"].astype(jnp.int32))
        return words * batch["matched"] + self.match_weight * match

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Accuracy of masked words in matched pairs and of matching; `/chance` always answers with
        the majority.
        """
        position = {source[i]["id"]: i for i in range(len(source))}

        def shown(example: Example) -> Arrays:
            """Swap texts here and not in the batch, so that the score does not depend on how
            batches are cut.
            """
            inputs = self.preprocess(example, None)
            if not inputs["matched"]:
                other = self.preprocess(source[(position[example["id"]] + 1) % len(source)], None)
                inputs = inputs | {name: other[name] for name in ("text", "text_mask")}
            return inputs | {"matched": np.bool_(True)}

        right, count, matches, truths = [], [], [], []
        for index, row in run.rows("reconstruct", source, shown, **options):
            given = self.preprocess(source[index], None)
            truths.append(bool(given["matched"]))
            matches.append(int(np.argmax(row["match_logits"])) == int(given["matched"]))
            asked = given["targets_mask"] & given["matched"]
            guessed = np.argmax(row["word_logits"], axis=-1) == given["targets"]
            right.append(int(np.sum(guessed & asked)))
            count.append(int(np.sum(asked)))
        measures = [metrics.mean_of("match_accuracy", np.array(matches))]
        if any(count):
            words = metrics.mean_of("masked_accuracy", np.array(right), np.array(count))
            measures.insert(0, words)
        yield from metrics.score(measures).items()
        yield "match_accuracy/chance", max(float(np.mean(truths)), 1 - float(np.mean(truths)))
        yield "n", float(len(matches))
