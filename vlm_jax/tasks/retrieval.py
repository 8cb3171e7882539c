"""Retrieval: bring two of image, text and sound together in one space; scored by recall and ranks
in both directions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from vlm_jax import kwargs, metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.losses import contrastive_sigmoid, contrastive_softmax
from vlm_jax.metrics.recall import (
    Judged,
    positives_of_groups,
    products,
    transposed_positives,
)
from vlm_jax.tasks.matching import Matching, all_scores, judge
from vlm_jax.tokenizers import Tokenizer

CHUNK = 1024
"""Images that meet as many texts at a time in the loss of a large batch."""

KINDS = ("image", "audio", "text")


@dataclass(frozen=True)
class Retrieval:
    """length: tokens per text. loss_name: "softmax" (CLIP, arXiv:2103.00020) or "sigmoid" (SigLIP,
    arXiv:2303.15343). chunk: at most so many images meet so many texts at a time in the loss, whose
    memory is then linear in the batch; None for all at once, up to 4,096 rows, and 1,024 beyond.
    label_smoothing: of the softmax, in [0, 1).
    between: the two of KINDS that are brought together, "text" last if it is one; several such
    tasks share one space (arXiv:2305.05665). match: how images and texts are read together besides,
    see `tasks.matching.Matching`.
    """

    tokenizer: Tokenizer
    length: int = 32
    loss_name: str = "softmax"
    chunk: int | None = None
    label_smoothing: float = 0.0
    between: tuple[str, str] = ("image", "text")
    match: Mapping[str, Any] | None = None
    contrast: bool = True
    head: ClassVar[str] = "contrast"
    texts: ClassVar[str | None] = None

    def __post_init__(self):
        """ValueError for another loss_name or pair, a match of others than image and text, or
        neither contrast nor match.
        """
        if self.loss_name not in ("softmax", "sigmoid"):
            raise ValueError(f'loss_name={self.loss_name!r}: choose "softmax" or "sigmoid"')
        smoothed = self.label_smoothing != 0 and self.loss_name != "softmax"
        if smoothed or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} with loss_name={self.loss_name!r}: it is "
                "in [0, 1), and of the softmax"
            )
        known = len({*self.between}) == len(self.between) == 2 and {*self.between} <= {*KINDS}
        if not known or self.between[0] == "text":
            raise ValueError(
                f"between={self.between}: choose two of {', '.join(KINDS)}, in this order if one "
                "is text"
            )
        if self.matching is not None and tuple(self.between) != ("image", "text"):
            raise ValueError(f"match reads an image and a text together, not {self.between}")
        if not self.contrast and (self.matching is None or self.matching.start is not None):
            raise ValueError("contrast=False ranks by the match alone: set match={}, without start")

    @property
    def reads(self) -> tuple[str, ...]:
        """What it needs of an example, by its keys."""
        return tuple("captions" if kind == "text" else kind for kind in self.between)

    @cached_property
    def matching(self) -> Matching | None:
        """The section `match`; TypeError for an unknown key."""
        return None if self.match is None else kwargs.call(Matching, self.match, "match")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption (the first without rng), or what an encoder made of it beforehand;
        DataError if the example has none, or if it is to be matched and is no more than that.
        Nothing, if no texts are looked for.
        """
        if "text" not in self.between:
            return {}
        captions = example["captions"]
        if not captions:
            raise DataError(f"example {example['id']} has no caption, which retrieval learns from")
        chosen = 0 if rng is None else rng.integers(len(captions))
        match = self.matching
        if "text_features" in example:
            if match is not None:
                raise DataError("features of texts cannot be matched: drop config.data's `text`")
            return {"text_pooled": example["text_features"][chosen]}
        text, caption = self.text(captions[chosen]), captions[chosen]
        return text if match is None else text | match.fields(text, caption, example)

    def text(self, text: str) -> Arrays:
        """One text as the text encoder reads it."""
        return encoder_text(self.tokenizer, text, self.length)

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]. ValueError for the sigmoid loss of a model without logit bias."""
        match = self.matching
        if match is not None and not self.contrast:
            return match.choice_loss(outputs)
        contrast = self._contrast(outputs)
        return contrast if match is None else contrast + match.weight * match.loss(outputs)

    def _contrast(self, outputs: Mapping) -> Any:
        image, text = (outputs[f"{kind}_embeds"] for kind in self.between)
        scale = outputs["scale"]
        if self.loss_name == "softmax":
            options: Any = dict(chunk=self._chunk(len(image)), label_smoothing=self.label_smoothing)
            return contrastive_softmax(image, text, scale, **options)
        if "bias" not in outputs:
            raise ValueError(
                "the sigmoid loss needs config.model.contrast.bias: set it, say to -10.0"
            )
        chunk = self._chunk(len(image))
        return contrastive_sigmoid(image, text, scale, outputs["bias"], chunk=chunk)

    def _chunk(self, rows: int) -> int | None:
        """A matrix of 4,096 x 4,096 scores is 64 MiB, which is cheaper to keep than to compute
        again.
        """
        return CHUNK if self.chunk is None and rows > 4 * CHUNK else self.chunk

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, *, captions: int | None = None
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Recall and ranks over all images and the first `captions` captions of each (None: all),
        or the same of sounds; or over pairs of images and sounds.

        Equal captions count for all images that carry them, images and sounds of equal `content`
        for each other. Chance is what a random order would score. ".../reranked/R@1" and so on
        come after the second stage of a task with `match`.
        """
        examples = [source[i] for i in range(len(source))]
        first, second = self.between
        if not self.contrast:
            found, texts, positives = self._matched(run, source, examples, captions)
            shown, others = [examples[i] for i in found], np.eye(len(texts), dtype=np.float32)
        elif second == "text":
            found = self._embeddings(run, source, first)
            found = {i: vector for i, vector in found.items() if examples[i]["captions"]}
            shown = [examples[i] for i in found]
            texts, positives = _captions(shown, captions)
            if not texts:
                raise DataError(f"{source.name} has no captions to retrieve")
            others = run.text_embeddings(_known(shown) or self, texts)
        else:
            found, partners = (self._embeddings(run, source, kind) for kind in self.between)
            found = {i: vector for i, vector in found.items() if i in partners}
            shown, texts = [examples[i] for i in found], None
            if not shown:
                raise DataError(f"{source.name} has no example with both {first} and {second}")
            others = np.stack([partners[i] for i in found])
            contents = [example.get("content", example["id"]) for example in shown]
            positives = positives_of_groups(contents, contents)
        vectors, match = np.stack(list(found.values())), self.matching
        judged = (None, None)
        if self.contrast and match is not None and match.rerank and texts:
            judged = judge(run, self, source, list(found), texts, (vectors, others))
        run.save_predictions(_top_hits(shown, texts, positives, vectors, others, judged[1]))
        scores = metrics.retrieval_scores(vectors, others, positives, kinds=self.between)
        yield from scores.items()
        yield from _chances(self.between, positives, len(others))
        if judged[1] is not None:
            again = metrics.retrieval_scores(vectors, others, positives, judged=judged)
            yield from ((name.replace("/", "/reranked/"), one) for name, one in again.items())
        yield "n", float(len(shown))
        if texts:
            yield "n_texts", float(len(texts))

    def _matched(
        self, run: Any, source: Source, examples: Sequence[Example], captions: int | None
    ) -> tuple[dict[int, np.ndarray], list[str], list[list[int]]]:
        """Logits of each readable picture with all texts, which stand for its vector where each
        text's is a unit vector; the texts, and which are whose.
        """
        texts, _ = _captions(examples, captions)
        if not texts:
            raise DataError(f"{source.name} has no captions to retrieve")
        found = all_scores(run, self, source, texts)
        found = {i: row for i, row in found.items() if examples[i]["captions"]}
        column = {text: number for number, text in enumerate(texts)}
        texts, positives = _captions([examples[i] for i in found], captions)
        kept = [column[text] for text in texts]
        return {i: row[kept] for i, row in found.items()}, texts, positives

    def _embeddings(self, run: Any, source: Source, kind: str) -> dict[int, np.ndarray]:
        """Vectors by position, without broken examples."""
        return dict(
            run.audio_embeddings(source) if kind == "audio" else run.image_embeddings(source)
        )


def _captions(shown: Sequence[Example], count: int | None) -> tuple[list[str], list[list[int]]]:
    """All different captions, the first `count` of each example, and which are whose."""
    texts = list(dict.fromkeys(text for example in shown for text in example["captions"][:count]))
    column = {text: number for number, text in enumerate(texts)}
    return texts, [
        sorted({column[text] for text in example["captions"][:count]}) for example in shown
    ]


def _chances(
    between: tuple[str, str], positives: Sequence[Sequence[int]], others: int
) -> Iterator[tuple[str, float]]:
    """Recalls of random orders, in both directions."""
    first, second = between
    backward = transposed_positives(positives, others)
    ways = {f"{first}_to_{second}": (positives, others)}
    ways[f"{second}_to_{first}"] = (backward, len(positives))
    for way, (right, candidates) in ways.items():
        for k in (1, 5, 10):
            chances = [_chance(len(one), candidates, k) for one in right]
            yield f"{way}/R@{k}/chance", float(np.mean(chances))


@dataclass(frozen=True)
class Known:
    """Reads a text as what an encoder made of it beforehand. vectors: f32[D] of every text."""

    vectors: Mapping[str, np.ndarray]

    def text(self, text: str) -> Arrays:
        """What the model gets in place of the text."""
        return {"text_pooled": self.vectors[text]}


def _known(examples: Sequence[Any]) -> Known | None:
    """The vectors of all captions, if every example brings them along."""
    if not all("text_features" in example for example in examples):
        return None
    pairs = (zip(e["captions"], e["text_features"], strict=True) for e in examples)
    return Known(dict(pair for pairs_of_one in pairs for pair in pairs_of_one))


def _chance(right: int, candidates: int, k: int) -> float:
    """Probability that a random order has one of `right` answers among its first k."""
    misses = np.arange(min(k, candidates))
    return 1.0 - float(np.prod(np.maximum(candidates - right - misses, 0) / (candidates - misses)))


def _top_hits(
    shown: Sequence[Example],
    texts: Sequence[str] | None,
    positives: Sequence[Sequence[int]],
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    judged: Judged | None = None,
    hits: int = 5,
) -> list[dict[str, Any]]:
    """For each image one of its texts, and the images that come first for that text, after the
    second stage if there was one; without texts, those that come first for its sound.
    """
    rows = []
    for example, right in zip(shown, positives, strict=True):
        order = np.argsort(-products(image_embeds, text_embeds[right[:1]])[:, 0], kind="stable")
        order = (order if judged is None else judged.first(right[0]))[:hits]
        found = [shown[i]["id"] for i in order]
        text = example.get("content", "") if texts is None else texts[right[0]]
        row = {"id": example["id"], "captions": example["captions"], "text": text, "hits": found}
        rows.append(row)
    return rows
