"""Completion: text alone, learned token by token and gone on with; scored by perplexity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlm_jax import metrics
from vlm_jax.data.in_memory import texts_alone
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text, pad, teacher_forcing
from vlm_jax.decode import round_up
from vlm_jax.losses import written_cross_entropy
from vlm_jax.tasks.vqa import commonest_answer, pick_question
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Completion:
    """A decoder that reads no picture. What it learns are an example's captions; with `encoded`,
    its answers after its questions, which a text encoder reads (T5).

    length: tokens of a text in training and evaluation, cut beyond, and most that one question has.
    before: ids that every text of the decoder begins with (None: bos). ended: whether the end of a
    text is learned and scored, too. written: tokens that `complete` writes unless told otherwise.
    blocked: words whose scores the loss computes at a time, for large vocabularies (None: all).
    """

    tokenizer: Tokenizer
    length: int = 256
    before: tuple[int, ...] | None = None
    ended: bool = True
    encoded: bool = False
    written: int = 32
    label_smoothing: float = 0.0
    blocked: int | None = None
    head: ClassVar[str] = "generate"
    texts: ClassVar[str | None] = None

    @property
    def reads(self) -> tuple[str, ...]:
        """What it needs of an example, by its keys."""
        return ("questions" if self.encoded else "captions",)

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption (the first without rng), or a question and its answer; DataError if the
        example has none, or the text is no longer than what every text begins with.
        """
        if self.encoded:
            question = pick_question(example, rng)
            arrays = encoder_text(self.tokenizer, question["question"], self.length)
            return arrays | self._forced(commonest_answer(question), example)
        captions = example["captions"]
        if not captions:
            raise DataError(f"example {example['id']} has no caption, the text that is learned")
        return self._forced(captions[0 if rng is None else rng.integers(len(captions))], example)

    def _forced(self, text: str, example: Example) -> Arrays:
        """The text for teacher forcing, from where it begins."""
        first, words = self._first, self.tokenizer.encode(text)
        ids = [*first, *words] + [self.tokenizer.eos] * self.ended
        own = [False] * len(first) + [True] * (len(ids) - len(first))
        if not any(own[1:]):
            raise DataError(f"example {example['id']}: {text!r} leaves no token to predict")
        arrays = teacher_forcing(ids, own, self.length, self.tokenizer.pad)
        return arrays | {"prefix": np.int32(len(first))}

    @property
    def _first(self) -> tuple[int, ...]:
        return (self.tokenizer.bos,) if self.before is None else tuple(self.before)

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean cross-entropy per token of the text."""
        return written_cross_entropy(
            outputs, batch, block=self.blocked, label_smoothing=self.label_smoothing
        )

    def complete(
        self, run: Any, texts: Sequence[str], length: int | None = None, **options: Any
    ) -> list[Any]:
        """What the decoder writes after each text, or, of a model with a text encoder, about it:
        with n_best, a list of texts for each, best first.

        length: most tokens of it (None: `written`). options: those of `evaluate.Run.write`.
        ValueError for a text that leaves the decoder no room for as many.
        """
        length, tokenizer = length or self.written, self.tokenizer
        most = run.experiment.model.decoder.max_length
        given = [[*self._first] if self.encoded else self._prompt(text) for text in texts]
        longest = max(map(len, given), default=1)
        if longest + length - 1 > most:  # the last token is not read
            raise ValueError(
                f"a text of {longest} tokens and {length} new ones do not fit the decoder's "
                f"{most}: shorten the text, or set length"
            )
        size = min(round_up(longest), most - (length - 1))
        read = reader(tokenizer, texts) if self.encoded else None

        def asked(example: Any) -> Arrays:
            ids = given[example["position"]]
            tokens, mask = pad(ids, size, tokenizer.pad)
            arrays = {"tokens": tokens, "tokens_mask": mask, "prefix": np.int32(len(self._first))}
            return arrays | ({} if read is None else read(example["captions"][0]))

        found = dict(run.write_tokens(texts_alone(texts), asked, length, **options))
        known = [[] if self.encoded else ids for ids in given]
        return [self._after(ids, found[i]) for i, ids in enumerate(known)]

    def _prompt(self, text: str) -> list[int]:
        """The ids of a text to be gone on with; the empty one has at least a beginning."""
        ids = [*self._first, *self.tokenizer.encode(text)]
        return ids or [self.tokenizer.bos]

    def _after(self, known: list[int], tokens: np.ndarray) -> Any:
        """The text of new tokens, space in front included, where known ones stand before them."""
        if tokens.ndim > 1:
            return [self._after(known, one) for one in tokens]
        decode, new = self.tokenizer.decode, tokens.tolist()
        before, whole = decode(known), decode([*known, *new])
        return whole[len(before) :] if known and whole.startswith(before) else decode(new)

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Nats per token of every text, `loss`, and its exponential, `perplexity`.

        `loss/unigram` is what a model would have that knows how often each token is in this set,
        and nothing else.
        """
        examples = [source[i] for i in range(len(source))]
        views = [view for example in examples for view in self._views(example)]
        if not views:
            kind = "question" if self.encoded else "caption"
            raise DataError(f"{source.name} has no {kind}, the texts that are scored")
        rows = _trimmed([self.preprocess(view, None) for view in views])
        losses = run.losses(self, rows)
        counts = np.array([row["targets_mask"].sum() for row in rows])
        measure = metrics.mean_of("loss", losses * counts, counts)
        found = metrics.score([measure])["loss"]
        yield "loss", found
        value, low, high = np.exp(found[:3]).tolist()
        yield "perplexity", metrics.Score(value, low, high, found.n)
        said = np.concatenate([row["targets"][row["targets_mask"]] for row in rows])
        shares = np.unique(said, return_counts=True)[1] / len(said)
        yield "loss/unigram", float(-np.sum(shares * np.log(shares)))
        yield "n", float(len(rows))
        yield "n_tokens", float(counts.sum())

    def _views(self, example: Example) -> list[Any]:
        """The example with each of its texts alone."""
        key = "questions" if self.encoded else "captions"
        return [{**example, key: [text]} for text in example[key]]


def reader(
    tokenizer: Tokenizer, texts: Sequence[str], most: int | None = None
) -> Callable[[str], Arrays]:
    """Reads any of these texts as a text encoder does, all at one length that holds the longest,
    at most `most`.
    """
    framed = len(tokenizer.before) + len(tokenizer.after)
    longest = max((len(tokenizer.encode(text)) for text in texts), default=0) + framed
    length = round_up(longest) if most is None else min(round_up(longest), most)
    return lambda text: encoder_text(tokenizer, text, length)


def _trimmed(rows: list[Arrays]) -> list[Arrays]:
    """The rows without what is padding in all of them, but for a few places."""
    for mask, names in (
        ("tokens_mask", ("tokens", "tokens_mask", "targets", "targets_mask")),
        ("text_mask", ("text", "text_mask")),
    ):
        if mask in rows[0]:
            size = round_up(max(int(row[mask].sum()) for row in rows))
            rows = [{**row, **{name: row[name][:size] for name in names}} for row in rows]
    return rows
