"""Why a trained model said what it said about a picture: a heat map per word, by any method.

model = vlm_jax.load("runs/quickstart")
insight.explain(model, "cat.png", question="what colour is the cat?", method="grad_cam")
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vlm_jax.api import Image, Model
from vlm_jax.insight import attention, gradients, maps
from vlm_jax.insight.subject import NothingSeen, Subject, Word, scores, subject_of, words
from vlm_jax.types import Variables

METHODS: dict[str, Callable[..., Any]] = {
    "attention": attention.attended,
    "rollout": attention.rollout,
    "relevance": attention.relevance,
    "grad_cam": gradients.grad_cam,
    "hires_cam": gradients.hires_cam,
    "gradient_x_input": gradients.gradient_x_input,
    "integrated_gradients": gradients.integrated_gradients,
}
"""Name -> function of (model, variables, subject)."""

ROWS = 8
"""Words that are explained at a time, which bounds the memory."""


class Explanation(NamedTuple):
    """text: what was said, in `words`; question: what was asked, or None. picture: as the model
    saw it. heat: per word, in [0, 1]. scores: of each word, see `insight.subject`.
    """

    method: str
    question: str | None
    text: str
    words: tuple[str, ...]
    picture: UInt8[np.ndarray, "H W 3"]
    heat: Float[np.ndarray, "N H W"]
    scores: Float[np.ndarray, " N"]


class LeftOut(NamedTuple):
    """A word of the text that was read, and how much the score falls without it."""

    word: str
    drop: float


class Explainer:
    """A model with what was compiled to explain it. variables: others than the model's own."""

    def __init__(self, model: Model, variables: Variables | None = None):
        self.model = model
        self.variables = model.run.variables if variables is None else variables
        self._compiled: dict[tuple[str, str], Callable] = {}

    def explain(
        self,
        image: Image,
        *,
        question: str | None = None,
        text: str | None = None,
        method: str = "grad_cam",
    ) -> Explanation:
        """Why the model answers `question`, or captions the picture, with `text`.

        text: None for what the model itself says. For a model that only compares pictures and
        texts, `text` is needed, and what is explained is their likeness. ValueError for another
        method or a model without such a task, such as one of sounds; DataError for a video;
        NothingSeen for a method that has nothing to say.
        """
        name, text = self._asked(image, question, text)
        setup = self.model.run.experiment
        picture, _ = setup.read(image, None)
        given = {"text": text} | ({} if question is None else {"question": question})
        said = self._words(name, given, picture)
        many = [given] * len(said)
        places = [word.places for word in said]
        subject = subject_of(setup, name, np.stack([picture] * len(said)), many, places)
        found = self.shares(method, subject)
        heat = np.stack([maps.heat(one, *picture.shape[:2]) for one in found])
        each = self.scores(subject)
        shown = tuple(word.text for word in said)
        return Explanation(method, question, text, shown, picture, heat, each)

    def shares(self, method: str, subject: Subject) -> np.ndarray:
        """[B, S] of tokens or [B, H, W] of pixels by one of METHODS, ROWS rows at a time.

        NothingSeen, a ValueError, if everything counts alike in every row.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
        function = partial(METHODS[method], self.model.run.experiment.model)
        found = self._in_parts(method, function, subject)
        flat = found.reshape(len(found), -1)
        if not np.any(np.ptp(flat, axis=1) > 1e-6 * np.abs(flat).max(axis=1)):
            raise NothingSeen(f"{method}: {attention.NOTHING}")
        return found

    def scores(self, subject: Subject) -> np.ndarray:
        """f32[B]: the score of each row's word."""
        return self._in_parts("scores", partial(scores, self.model.run.experiment.model), subject)

    def without_words(
        self, image: Image, *, question: str | None = None, text: str | None = None
    ) -> list[LeftOut]:
        """Each word of the question (or of the text that a picture is compared with), and by how
        much the score of the answer falls if it alone is left out.

        ValueError for a captioner, which reads no text before it writes.
        """
        name, text = self._asked(image, question, text)
        setup = self.model.run.experiment
        if question is None and setup.tasks[name].head == "generate":
            raise ValueError("a captioner reads no words that could be left out: give a question")
        read = text if question is None else question
        split = read.split()
        kept = [read] + [" ".join(split[:i] + split[i + 1 :]) for i in range(len(split))]
        key = "text" if question is None else "question"
        base = {"text": text} | ({} if question is None else {"question": question})
        texts = [base | {key: one or " "} for one in kept]
        picture, _ = setup.read(image, None)
        subject = subject_of(setup, name, np.stack([picture] * len(texts)), texts)
        each = self.scores(subject)
        return [
            LeftOut(word, float(each[0] - less)) for word, less in zip(split, each[1:], strict=True)
        ]

    def _asked(self, image: Image, question: str | None, text: str | None) -> tuple[str, str]:
        """The task, by what it can do, and what it says."""
        tasks = self.model.run.experiment.tasks
        wanted = ("answer",) if question is not None else ("prompt", "text")
        for ability in wanted:
            for name, task in tasks.items():
                seen = "image" in task.reads and "audio" not in task.reads
                if seen and hasattr(task, ability) and not (ability == "text" and text is None):
                    return name, text or self._said(image, question)
        raise ValueError(
            f"this run cannot be asked for this: it was trained for {', '.join(tasks)}; give a "
            "question to a model that answers, or a text to one that compares it with pictures"
        )

    def _said(self, image: Image, question: str | None) -> str:
        if question is None:
            return self.model.caption(image)  # pyright: ignore[reportReturnType]
        return self.model.answer(image, question)  # pyright: ignore[reportReturnType]

    def _words(self, name: str, given: Mapping[str, str], picture: np.ndarray) -> list[Word]:
        """The words of what a decoder says, or all of it as one."""
        setup = self.model.run.experiment
        if setup.tasks[name].head != "generate":
            return [Word(given["text"], ())]
        subject = subject_of(setup, name, picture[None], [given])
        said = words(setup, jax.device_get(dict(subject.inputs)), 0)
        if not said:
            raise ValueError("the model said nothing that could be explained: give a text")
        return said

    def _in_parts(self, key: str, function: Callable, subject: Subject) -> np.ndarray:
        """A compiled function of (variables, subject) over all rows, ROWS at a time."""
        compiled, mesh = self._function(key, function, subject.ask), self.model.run.mesh
        total, found = len(subject.pick), []
        for start in range(0, total, ROWS):
            taken = np.minimum(np.arange(start, start + ROWS), total - 1)
            part = jax.tree.map(lambda x, taken=taken: np.asarray(x)[taken], subject[1:])
            with jax.set_mesh(mesh):
                found.append(np.asarray(compiled(self.variables, *part))[: total - start])
        return np.concatenate(found)

    def _function(self, key: str, function: Callable, ask: str) -> Callable:
        if (key, ask) not in self._compiled:
            self._compiled[key, ask] = jax.jit(
                lambda variables, *arrays: function(variables, Subject(ask, *arrays))
            )
        return self._compiled[key, ask]


def explain(model: Model, image: Image, **options: Any) -> Explanation:
    """One explanation; see `Explainer.explain`, whose object compiles each method only once."""
    return Explainer(model).explain(image, **options)
