"""Visual question answering: as classification over an answer vocabulary, or as generation of the
answer's words.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlm_jax import metrics
from vlm_jax.data.picture_words import with_picture
from vlm_jax.data.schema import DataError, Example, Question, Source
from vlm_jax.data.sources import flatten_questions
from vlm_jax.data.text import TEMPLATE, Arrays, decoder_prompt, decoder_text, encoder_text, fill
from vlm_jax.losses import binary_cross_entropy, softmax_cross_entropy, written_cross_entropy
from vlm_jax.metrics.character_errors import character_errors
from vlm_jax.metrics.vqa_accuracy import vqa_accuracy_score
from vlm_jax.tasks.nearest_picture import nearest_answers
from vlm_jax.tasks.retrieved import neighbours
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class VqaClassification:
    """The answer is one of `answers`, chosen from the fused image and question (arXiv:1505.00468,
    section 4).

    answers: the C classes. length: tokens per question. loss_name: "softmax" on the commonest
    answer, or "binary" on each answer's share of the votes (arXiv:1708.02711, section 3.6).
    retrieved: how the texts of similar pictures are used, see `tasks.retrieved.Neighbours`; there
    is no prompt here, so they go to the "memory".
    """

    tokenizer: Tokenizer
    answers: tuple[str, ...]
    length: int = 20
    loss_name: str = "softmax"
    label_smoothing: float = 0.0
    retrieved: Mapping[str, Any] | None = None
    head: ClassVar[str] = "classify"
    texts: ClassVar[str | None] = "questions"
    reads: ClassVar[tuple[str, ...]] = ("image", "questions")
    question_to: ClassVar[str] = "text"

    def __post_init__(self):
        """ValueError for another loss_name, or a prompt."""
        if self.loss_name not in ("softmax", "binary"):
            raise ValueError(f'loss_name={self.loss_name!r}: choose "softmax" or "binary"')
        if self.retrieved is not None and dict(self.retrieved).get("to") != "memory":
            raise ValueError('this task has no prompt: set its retrieved.to to "memory"')

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random question (the first without rng) with its label i32 and soft targets f32[C] in
        [0, 1].
        """
        question = pick_question(example, rng)
        votes = np.array([question["answers"].count(a) for a in self.answers], np.float32)
        # Four votes of ten already make a full answer; one of a few annotators is believed.
        share = 0.3 if len(question["answers"]) > 3 else 1.0
        texts = encoder_text(self.tokenizer, question["question"], self.length)
        texts |= self._retrieved(example, rng)
        return texts | {
            "label": np.int32(votes.argmax()),
            "label_weights": np.minimum(share * votes, 1).astype(np.float32),
            "known": votes.any(),  # another answer cannot be learned, only missed
        }

    def query(self, example: Example) -> Arrays:
        """The question as the text encoder reads it."""
        question = pick_question(example, None)["question"]
        texts = encoder_text(self.tokenizer, question, self.length)
        return texts | self._retrieved(example, None)

    def _retrieved(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        near = neighbours(self.retrieved)
        return {} if near is None else near.arrays(self.tokenizer, near.used(example, rng))

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]; 0 where no annotator gave an answer of the vocabulary (softmax)."""
        if self.loss_name == "binary":
            return binary_cross_entropy(outputs["logits"], batch["label_weights"])
        loss = softmax_cross_entropy(
            outputs["logits"], batch["label"], label_smoothing=self.label_smoothing
        )
        return loss * batch["known"]

    def answer(self, run: Any, source: Source, **options: Any) -> dict[int, str]:
        """The best answer for each example (one question each), by position."""
        rows = run.rows("classify", source, self.query, **options)
        return {index: self.answers[int(np.argmax(row["logits"]))] for index, row in rows}

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """VQA accuracy over every question once, by question type, beside blind baselines."""
        yield from evaluate_answers(self, run, source, train, options)


@dataclass(frozen=True)
class VqaGeneration:
    """The answer is written by the decoder, after the question.

    question_to: "decoder", the question is the prefix of what the decoder reads (PaliGemma, GIT),
    or "text", it goes through the text encoder and the fusion (BLIP). question_length: tokens of
    the question and of all that the template puts around it; a longer one loses its end, or is an
    error with cut=False. length: tokens that the decoder reads, question included if it is there.
    blocked: words whose scores the loss computes at a time, for large vocabularies (None: all).
    template: how question and special tokens are arranged for the decoder, see `data.text.fill`;
    text_template: the same for the text encoder. picture: what stands for the picture where the
    template says "{picture}", see `data.picture_words.with_picture`; it is in addition to both
    lengths. characters: score the character error rate too, of answers that are read off the
    picture. nearest: with how many training pictures evaluation compares pixels, for one more
    baseline (0: without it), see `tasks.nearest_picture`.
    """

    tokenizer: Tokenizer
    length: int = 32
    question_length: int = 20
    question_to: str = "decoder"
    label_smoothing: float = 0.0
    blocked: int | None = None
    template: str = TEMPLATE
    text_template: str | None = None
    picture: Mapping[str, Any] | None = None
    characters: bool = False
    nearest: int = 0
    cut: bool = True
    head: ClassVar[str] = "generate"
    texts: ClassVar[str | None] = "questions"
    reads: ClassVar[tuple[str, ...]] = ("image", "questions")

    def __post_init__(self):
        """ValueError for another question_to, or a length without room for an answer."""
        if self.question_to not in ("decoder", "text"):
            raise ValueError(f'question_to={self.question_to!r}: choose "decoder" or "text"')
        if self._answer_length() < 1:
            raise ValueError(
                f"question_length={self.question_length} leaves no room for an answer in "
                f"length={self.length}: raise length"
            )

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random question (the first without rng) and its commonest answer."""
        question = pick_question(example, rng)
        answer = commonest_answer(question)
        prompt, texts, template, shown = self._question(question["question"], example)
        lengths = (self.length + shown, self.question_length + shown)
        return texts | decoder_text(self.tokenizer, prompt, answer, *lengths, template=template)

    def query(self, example: Example) -> Arrays:
        """What the model is given before it answers."""
        question = pick_question(example, None)["question"]
        prompt, texts, template, shown = self._question(question, example)
        length = self.question_length + shown if prompt else None
        return texts | decoder_prompt(self.tokenizer, prompt, length, template)

    def _question(self, question: str, example: Example) -> tuple[str, Arrays, str, int]:
        """What the decoder is asked, what the text encoder reads, the decoder's template, and room
        for the picture in it, in tokens.
        """
        if self.question_to == "decoder":
            template, shown = with_picture(self.template, self.picture, self.tokenizer, example)
            if not self.cut:
                self._check(question, len(fill(self.tokenizer, template, question)) - shown)
            return question, {}, template, shown
        template, shown = self.text_template, 0
        if template is not None:
            template, shown = with_picture(template, self.picture, self.tokenizer, example)
        length = self.question_length + shown
        texts = encoder_text(self.tokenizer, question, length, template)
        return "", texts, self.template, 0

    def _check(self, question: str, count: int) -> None:
        """DataError for a question of more tokens than question_length."""
        if count > self.question_length:
            raise DataError(
                f"the question {question!r} makes {count} tokens, more than "
                f"question_length={self.question_length}: shorten it, or raise question_length and "
                "length of the task and train again"
            )

    def _answer_length(self) -> int:
        """Most tokens of an answer, so that the decoder reads no more than in training."""
        return self.length - (self.question_length if self.question_to == "decoder" else 0)

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean cross-entropy per answer token, eos included."""
        return written_cross_entropy(
            outputs, batch, block=self.blocked, label_smoothing=self.label_smoothing
        )

    def answer(self, run: Any, source: Source, **options: Any) -> dict[int, str]:
        """The written answer for each example (one question each), by position."""
        return run.write(source, self.query, self._answer_length(), **options)

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """VQA accuracy over every question once, by question type, beside blind baselines."""
        scored = (self.characters, self.nearest)
        yield from evaluate_answers(self, run, source, train, options, *scored)


def pick_question(example: Example, rng: np.random.Generator | None) -> Question:
    """A random question of the example, the first without rng; DataError if it has none."""
    questions = example["questions"]
    if not questions:
        raise DataError(f"example {example['id']} has no question, which VQA learns from")
    return questions[0 if rng is None else rng.integers(len(questions))]


def evaluate_answers(
    task: VqaClassification | VqaGeneration,
    run: Any,
    source: Source,
    train: Source | None,
    options: Mapping,
    characters: bool = False,
    nearest: int = 0,
) -> Iterator[tuple[str, float | metrics.Score]]:
    """VQA accuracy of a task's answers, overall and by question type, with the same for baselines:
    one that sees no image and, if `nearest` is above 0, the nearest of as many training pictures.

    characters: the character error rate, "CER", beside every accuracy.
    """
    flat = flatten_questions(source)
    asked = [flat[i] for i in range(len(flat))]
    given = task.answer(run, flat, **options)
    run.save_predictions(
        [
            {"id": asked[i]["id"], "question": asked[i]["questions"][0]["question"], "answer": text}
            for i, text in given.items()
        ]
    )
    questions = {i: asked[i]["questions"][0] for i in given}
    yield from accuracies(given, questions, "", characters)
    commonest = [commonest_answer(question) for question in questions.values()]
    yield from class_scores(commonest, list(given.values()))
    if train is not None:
        blind = blind_answers(questions, train)
        yield from accuracies(blind, questions, "/question_only", characters)
    if train is not None and nearest:
        shown = {i: asked[i] for i in given}
        near = nearest_answers(run.experiment.read, shown, train, nearest)
        yield from accuracies(near, questions, "/nearest_picture", characters)
    yield "n", float(len(questions))


def class_scores(true: Sequence[str], given: Sequence[str]) -> Iterator[tuple[str, metrics.Score]]:
    """Macro precision, recall and F1 in [0, 1] of answers seen as classes."""
    classes = sorted({*true, *given})
    order = {name: number for number, name in enumerate(classes)}
    as_numbers = lambda names: np.array([order[name] for name in names])
    measure = metrics.classification_measure(as_numbers(true), as_numbers(given), len(classes))
    scores = metrics.score([measure])
    for name in ("precision_macro", "recall_macro", "f1_macro"):
        yield name, scores[name]


def accuracies(
    given: Mapping[Any, str],
    questions: Mapping[Any, Question],
    suffix: str,
    characters: bool = False,
) -> Iterator[tuple[str, float | metrics.Score]]:
    """Mean VQA accuracy in [0, 1], overall and per question type, and with `characters` the
    character error rate. given, questions: by position.
    """
    answers = {i: question["answers"] for i, question in questions.items()}
    given = {i: given[i] for i in answers}
    right = np.array([vqa_accuracy_score(given[i], answers[i]) for i in answers])
    columns = {"accuracy": (right, np.ones_like(right))}
    if characters:
        columns["CER"] = character_errors(given, answers)
    kinds = np.array([question.get("type", "") for question in questions.values()])
    measures = []
    for name, (sums, counts) in columns.items():
        measures.append(metrics.mean_of(name + suffix, sums, counts))
        for kind in dict.fromkeys(kinds[kinds != ""].tolist()):
            here = kinds == kind
            of_kind = f"{name}/type/{kind}{suffix}"
            measures.append(metrics.mean_of(of_kind, sums * here, counts * here))
    yield from metrics.score(measures).items()


def commonest_answer(question: Question) -> str:
    """The one that most annotators gave, the first of equally common ones."""
    return Counter(question["answers"]).most_common(1)[0][0]


def blind_answers(
    questions: Mapping[Any, Question], train: Source, limit: int = 20_000
) -> dict[Any, str]:
    """The commonest training answer to the same question, else to its first three, two, one or no
    words.
    """
    counts: dict[tuple[str, ...], Counter] = {}
    for i in range(min(limit, len(train))):
        for question in train[i]["questions"]:
            answer = commonest_answer(question)
            for key in _backoff(question["question"]):
                counts.setdefault(key, Counter())[answer] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return {
        i: next((best[key] for key in _backoff(question["question"]) if key in best), "")
        for i, question in questions.items()
    }


def _backoff(question: str) -> Sequence[tuple[str, ...]]:
    words = question.lower().split()
    return [tuple(words), *(("...", *words[:n]) for n in (3, 2, 1, 0))]


def answer_vocabulary(source: Source, size: int, limit: int = 100_000) -> tuple[str, ...]:
    """The `size` commonest answers of a source, most common first, ties in alphabetical order."""
    counts: Counter = Counter()
    for i in range(min(limit, len(source))):
        for question in source[i]["questions"]:
            counts.update(question["answers"])
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:size])
