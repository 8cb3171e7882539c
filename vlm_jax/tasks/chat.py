"""Chat: the turns of a conversation about pictures, all answers of which are learned at once and,
later, written one after the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from vlm_jax import kwargs, metrics
from vlm_jax.data.in_memory import InMemory
from vlm_jax.data.schema import DataError, Example, Question, Source
from vlm_jax.data.text import Arrays, pad, teacher_forcing
from vlm_jax.data.turns import MARK, Format, marks, pictures_of
from vlm_jax.losses import written_cross_entropy
from vlm_jax.metrics.vqa_accuracy import vqa_accuracy_score
from vlm_jax.tasks.vqa import accuracies, blind_answers, commonest_answer
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Chat:
    """An example's questions are the turns of one conversation; each is answered with all before
    it, pictures included, in mind.

    format: fields of `data.turns.Format`, which the chat itself uses, too. length: tokens of a
    conversation in training and evaluation, pictures included; turns that do not fit are left out.
    answer_length: most tokens of an answer, its end included. blocked: words whose scores the loss
    computes at a time, for large vocabularies (None: all). label_smoothing: in [0, 1).
    """

    tokenizer: Tokenizer
    format: Mapping[str, Any]
    length: int = 256
    answer_length: int = 16
    label_smoothing: float = 0.0
    blocked: int | None = None
    head: ClassVar[str] = "generate"
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image", "questions")

    @cached_property
    def turns(self) -> Format:
        """How a conversation is arranged."""
        return kwargs.call(Format, self.format, "format")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """The whole conversation, with every answer, and what ends it, among the targets; DataError
        if there is no question, or not even the first turn fits.
        """
        ids: list[int] = []
        own: list[bool] = []
        for said, question in self._said(example):
            answer = self.turns.answered(self.tokenizer, commonest_answer(question))
            if len(ids) + len(said) + len(answer) > self.length + 1:
                break
            ids += [*said, *answer]
            own += [False] * len(said) + [True] * len(answer)
        if not ids:
            raise DataError(
                f"example {example['id']}: its first turn needs more than length={self.length} "
                "tokens, or it has no question, which chat learns from"
            )
        arrays = teacher_forcing(ids, own, self.length, self.tokenizer.pad)
        return arrays | {"prefix": np.int32(0)}

    def query(self, example: Example) -> Arrays:
        """The conversation up to where the last question is to be answered; DataError if that is
        too long.
        """
        ids: list[int] = []
        for said, question in self._said(example):
            ids += said
            if question is not example["questions"][-1]:
                ids += self.turns.answered(self.tokenizer, commonest_answer(question))
        if len(ids) > self.length:
            raise DataError(
                f"example {example['id']}: {len(ids)} tokens of conversation do not fit "
                f"length={self.length}: raise it in the config of this task"
            )
        tokens, mask = pad(ids, self.length, self.tokenizer.pad)
        return {"tokens": tokens, "tokens_mask": mask, "prefix": np.int32(0)}

    def _said(self, example: Example) -> Iterator[tuple[list[int], Question]]:
        """The ids of each turn, up to its answer, and its question."""
        questions = example["questions"]
        for number, (question, shown) in enumerate(zip(questions, marks(example), strict=True)):
            grids = [example.get("grid")] * shown
            text = question["question"]
            yield self.turns.said(self.tokenizer, text, grids, first=not number), question

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean cross-entropy per token of the answers, their ends included."""
        return written_cross_entropy(
            outputs, batch, block=self.blocked, label_smoothing=self.label_smoothing
        )

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """VQA accuracy by what stands before the stroke in the questions' types, such as first and
        follow_up, with the model's own earlier answers in the conversation.

        Beside it: with the true ones (`true_history`), with the picture but nothing said before
        (`no_history`), and the commonest answer to the same words (`question_only`); `gap` is first
        minus follow_up. options: those of `vlm_jax.decode.Search`.
        """
        examples = [source[i] for i in range(len(source))]
        asked = {(i, t): q for i, e in enumerate(examples) for t, q in enumerate(e["questions"])}
        write = lambda views: _written(run, self, views, options)
        own = _in_turn(examples, write)
        later = {key: _so_far(examples[key[0]], key[1], {}) for key in asked if key[1]}
        follows = [key for key in later if _group(asked[key]) == "follow_up"]
        given = {
            "": own,
            "/true_history": own | write(later),
            "/no_history": write({key: _alone(later[key]) for key in follows}),
        }
        if train is not None:
            given["/question_only"] = blind_answers(asked, train)
        run.save_predictions(
            [
                {"id": f"{examples[i]['id']}/{t}", "question": asked[i, t]["question"], "answer": a}
                for (i, t), a in own.items()
            ]
        )
        scores = dict(_by_group(given, asked))
        yield from scores.items()
        if {"first/accuracy", "follow_up/accuracy"} <= scores.keys():
            yield "gap", scores["first/accuracy"].value - scores["follow_up/accuracy"].value
        yield from accuracies(own, {key: asked[key] for key in own}, "")
        yield "n", float(len(own))


Key = tuple[int, int]
"""The position of an example, and the number of one of its turns."""

Write = Callable[[Mapping[Key, Example]], dict[Key, str]]
"""The answers to the last questions of some conversations."""


def _written(
    run: Any, task: Chat, views: Mapping[Key, Example], options: Mapping
) -> dict[Key, str]:
    """What the model answers last in each conversation; those that cannot be read are left out."""
    keys = list(views)
    source = InMemory("conversations", list(views.values()))
    found = run.write(source, task.query, task.answer_length, **options) if keys else {}
    return {keys[position]: text for position, text in found.items()}


def _in_turn(examples: Sequence[Example], write: Write) -> dict[Key, str]:
    """Every question answered after the model's own answers to those before it."""
    given: dict[Key, str] = {}
    for turn in range(max((len(e["questions"]) for e in examples), default=0)):
        views = {
            (i, turn): _so_far(example, turn, {t: given[i, t] for t in range(turn)})
            for i, example in enumerate(examples)
            if len(example["questions"]) > turn and (not turn or (i, turn - 1) in given)
        }
        given |= write(views)
    return given


def _so_far(example: Example, turn: int, given: Mapping[int, str]) -> Example:
    """The conversation up to a turn, with other answers where they are given."""
    questions: list[Any] = [
        {**question, "answers": [given[t]]} if t in given else question
        for t, question in enumerate(example["questions"][: turn + 1])
    ]
    shown = sum(marks(example)[: turn + 1])
    pictures = pictures_of(example)[:shown]
    view: Any = {**example, "questions": questions, "pictures": pictures}
    return view


def _alone(example: Example) -> Example:
    """The last question with the last picture, as if nothing had been said."""
    last = example["questions"][-1]
    pictures = pictures_of(example)[-1:]
    question = {**last, "question": f"{MARK} " * len(pictures) + last["question"]}
    view: Any = {**example, "questions": [question], "pictures": pictures}
    return view


def _group(question: Question) -> str:
    return question.get("type", "").partition("/")[0]


def _by_group(
    given: Mapping[str, Mapping[Key, str]], asked: Mapping[Key, Question]
) -> Iterator[tuple[str, metrics.Score]]:
    """Accuracy of each group of questions, and beside it those that have other names."""
    for group in dict.fromkeys(map(_group, asked.values())):
        for suffix, answers in given.items():
            mine = [key for key in answers if _group(asked[key]) == group]
            right = [vqa_accuracy_score(answers[key], asked[key]["answers"]) for key in mine]
            if mine:
                name = f"{group}/accuracy{suffix}" if group else f"turns/accuracy{suffix}"
                yield from metrics.score([metrics.mean_of(name, np.array(right))]).items()
