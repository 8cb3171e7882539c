"""Masked-word modelling and image-text matching: the pre-training of BERT and VisualBERT."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vlm_jax import metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text, pad
from vlm_jax.decode import round_up
from vlm_jax.kwargs import Number
from vlm_jax.losses import masked_cross_entropy, softmax_cross_entropy
from vlm_jax.metrics.classification import softmax
from vlm_jax.tasks.text_to_image import generator_of
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class MaskedPretraining:
    """BERT's masking (arXiv:1810.04805, section 3.1) with matching as in VisualBERT
    (arXiv:1908.03557, section 3.2).

    mask_rate: share of words to predict; of these 80 % are hidden, 10 % replaced by a random word,
    10 % kept. mismatch_rate: share of examples shown the text of another image. match_weight:
    weight of the matching loss; 0, with mismatch_rate=0, for a model that reads texts alone or has
    no match score. match_class: which of the two match scores says that image and text belong
    together, as in `tasks.matching`; published VisualBERT has it first.
    """

    tokenizer: Tokenizer
    length: int = 32
    mask_rate: Number = 0.15
    mismatch_rate: Number = 0.5
    match_weight: Number = 1.0
    match_class: int = 1
    head: ClassVar[str] = "reconstruct"
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image", "captions")

    def __post_init__(self):
        """ValueError for another match_class."""
        if self.match_class not in (0, 1):
            raise ValueError(f"match_class={self.match_class}: there are two classes, 0 and 1")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A caption with masked words; without rng the masks are drawn from a fixed seed, the same
        in every evaluation.
        """
        captions = example["captions"]
        if not captions:
            raise DataError(
                f"example {example['id']} has no caption, which pre-training learns from"
            )
        mask = self._mask()
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
        shown[chosen[fate < 0.8]] = mask
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

    def _mask(self) -> int:
        """The id of the mask token. ValueError without one."""
        if self.tokenizer.mask is None:
            raise ValueError("masked words need a tokenizer with a [MASK] token; this one has none")
        return self.tokenizer.mask

    def blanks(self, text: str, size: int = 0) -> Arrays:
        """A text whose mask tokens, by their name in it, are to be filled: `text` and `text_mask`
        of a length that holds it, at least `size`, and `matched`. DataError for a text without a
        blank, or one that is too long.
        """
        mask, tokenizer = self._mask(), self.tokenizer
        name = str(tokenizer.token(mask))
        parts = [tokenizer.encode(part) for part in text.split(name)]
        if len(parts) < 2:
            raise DataError(f"{text!r} has no blank: write {name} where a word is to be found")
        ids = [*parts[0], *(i for part in parts[1:] for i in (mask, *part))]
        ids = [*tokenizer.before, *ids, *tokenizer.after]
        if len(ids) > self.length:
            raise DataError(f"{text!r} has {len(ids)} tokens, more than length={self.length}")
        size = max(min(round_up(len(ids)), self.length), size)
        tokens, real = pad(ids, size, tokenizer.pad)
        return {"text": tokens, "text_mask": real, "matched": np.bool_(True)}

    def fill(self, run: Any, source: Source, top: int) -> dict[int, list[list[dict[str, Any]]]]:
        """For every blank of each example's caption, the `top` likeliest tokens as {"token",
        "score", "index"}, best first; score is a probability.
        """
        texts = [source[i]["captions"][0] for i in range(len(source))]
        size = max(len(self.blanks(text)["text"]) for text in texts)
        read = lambda example: self.blanks(example["captions"][0], size)
        found = run.rows("reconstruct", source, read)
        return {i: self._likeliest(read(source[i])["text"], row, top) for i, row in found}

    def _likeliest(
        self, tokens: np.ndarray, row: Mapping[str, np.ndarray], top: int
    ) -> list[list[dict[str, Any]]]:
        """The same of one text."""
        found = []
        for chances in softmax(row["word_logits"][tokens == self._mask()]):
            best = [int(i) for i in np.argsort(-chances, kind="stable")[:top]]
            found.append(
                [{"token": self._name(i), "score": float(chances[i]), "index": i} for i in best]
            )
        return found

    def _name(self, index: int) -> str | None:
        """The entry of a token, None for a row of the table that stands for none."""
        return self.tokenizer.token(index) if index < self.tokenizer.size else None

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: masked words of matched pairs (a wrong image says nothing about them), plus
        matching for all. ValueError for matching with a model that has no match score.
        """
        words = masked_cross_entropy(
            outputs["word_logits"], batch["targets"], batch["targets_mask"]
        )
        if not self.match_weight:
            return words * batch["matched"]
        if "match_logits" not in outputs:
            raise ValueError(
                "this model has no match score (config.model.reconstruct.match): set the task's "
                "match_weight=0 and mismatch_rate=0"
            )
        matched = batch["matched"] == bool(self.match_class)
        match = softmax_cross_entropy(outputs["match_logits"], matched.astype(jnp.int32))
        return words * batch["matched"] + self.match_weight * match

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Accuracy of masked words in matched pairs and, unless match_weight is 0, of matching;
        `/chance` always answers with the majority.
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
            if self.match_weight:
                together = int(np.argmax(row["match_logits"])) == self.match_class
                truths.append(bool(given["matched"]))
                matches.append(together == truths[-1])
            asked = given["targets_mask"] & given["matched"]
            guessed = np.argmax(row["word_logits"], axis=-1) == given["targets"]
            right.append(int(np.sum(guessed & asked)))
            count.append(int(np.sum(asked)))
        measures = []
        if any(count):
            measures.append(metrics.mean_of("masked_accuracy", np.array(right), np.array(count)))
        if matches:
            measures.append(metrics.mean_of("match_accuracy", np.array(matches)))
        yield from metrics.score(measures).items()
        if matches:
            yield "match_accuracy/chance", max(float(np.mean(truths)), 1 - float(np.mean(truths)))
        yield "n", float(len(right))
