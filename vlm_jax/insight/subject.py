"""What is to be explained: a picture, what was asked about it, and the words that were said.

The score of a word is the log-probability of its tokens after those before them; of an answer among
classes its logit; of a picture and a text their cosine, or by how much the logit that they belong
together is above the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm_jax.data.pipeline import stack
from vlm_jax.data.schema import DataError, Example, Question
from vlm_jax.experiment import Experiment
from vlm_jax.tasks import Task
from vlm_jax.types import Variables

ASKS = ("generate", "classify", "contrast", "reconstruct")
"""Model methods whose outputs can be explained."""


class NothingSeen(ValueError):
    """A method that has nothing to say about a model, and what to use instead."""


class Subject(NamedTuple):
    """Rows of one task, each with one word to be explained.

    ask: one of ASKS. image: f32[B, H, W, 3], normalised. inputs: of the task, [B, ...].
    pick: f32[B, T], how much each of the row's scores counts: T target tokens, T = 1 score, or of a
    match T = 2, the logit of class 0 and of class 1.
    """

    ask: str
    image: Array
    inputs: Mapping[str, Array]
    pick: Array


class Word(NamedTuple):
    """A word that was said and the places of its tokens among the targets."""

    text: str
    places: tuple[int, ...]


def normalised(model: Any, image: Array | np.ndarray) -> Float[Array, "B H W 3"]:
    """uint8 [B, H, W, 3] as the vision encoder gets it; floats pass unchanged."""
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8:
        return image.astype(jnp.float32)
    mean, std = (jnp.asarray(x, jnp.float32) for x in (model.image_mean, model.image_std))
    return (image.astype(jnp.float32) / 255.0 - mean[None, None, None]) / std[None, None, None]


def scores(model: Any, variables: Variables, subject: Subject, mutable: Any = False) -> Any:
    """f32[B]: the score of each row's word. With `mutable`: that and the changed collections."""
    batch = {"image": subject.image, "asked": subject.inputs}
    found = model.apply(variables, batch, {"asked": subject.ask}, mutable=mutable)
    outputs, changed = found if mutable else (found, None)
    score = jnp.sum(_each(outputs["asked"], subject) * subject.pick, axis=1)
    return (score, changed) if mutable else score


def _each(outputs: Mapping[str, Array], subject: Subject) -> Float[Array, "B T"]:
    """The scores that `pick` picks from."""
    inputs = subject.inputs
    if subject.ask == "generate":
        chances = jax.nn.log_softmax(outputs["logits"], axis=-1)
        return jnp.take_along_axis(chances, inputs["targets"][..., None], axis=-1)[..., 0]
    if subject.ask == "classify":
        return jnp.take_along_axis(outputs["logits"], inputs["label"][:, None], axis=1)
    if subject.ask == "reconstruct":
        return outputs["match_logits"]
    each = jnp.einsum("b...e,be->b...", outputs["image_embeds"], outputs["text_embeds"])
    return jnp.max(each.reshape(len(each), -1), axis=1, keepdims=True)


def rows(task: Task, texts: Sequence[Mapping[str, str]]) -> Mapping[str, np.ndarray]:
    """The task's inputs for texts {"text": ..., "question": ...}, one row each.

    text: what was said (caption or answer), or the text beside the picture; question: what was
    asked, for tasks that are asked something. ValueError for an answer that is no class.
    """
    examples: list[Example] = []
    for i, given in enumerate(texts):
        asked = []
        if "question" in given:
            asked = [Question(question=given["question"], answers=[given["text"]])]
        examples.append(
            Example(id=str(i), image="", captions=[given["text"]], questions=asked)
            | ({"label": given["text"]} if hasattr(task, "labels") else {})  # pyright: ignore
        )
    found = [task.preprocess(example, None) for example in examples]
    for row, given in zip(found, texts, strict=True):
        if not np.all(row.get("known", True)):
            raise ValueError(f"{given['text']!r} is not among the answers that this model knows")
    return stack(found)


def words(setup: Experiment, inputs: Mapping[str, np.ndarray], row: int) -> list[Word]:
    """The words that the targets of a row spell, end of text left out."""
    ids = [
        (place, int(token))
        for place, token in enumerate(inputs["targets"][row])
        if inputs["targets_mask"][row][place] and int(token) != setup.tokenizer.eos
    ]
    found: dict[int, list[int]] = {}
    for count, (place, _) in enumerate(ids, start=1):
        text = setup.tokenizer.decode([token for _, token in ids[:count]])
        found.setdefault(max(len(text.split()), 1), []).append(place)
    spelled = setup.tokenizer.decode([token for _, token in ids]).split()
    return [
        Word(spelled[number - 1] if number <= len(spelled) else "", tuple(places))
        for number, places in sorted(found.items())
    ]


def subject_of(
    setup: Experiment,
    name: str,
    images: np.ndarray,
    texts: Sequence[Mapping[str, str]],
    places: Sequence[Sequence[int]] | None = None,
) -> Subject:
    """The rows of task `name` for uint8 [B, H, W, 3] pictures and their texts; see `rows`.

    places: per row the target tokens that count (None: all of them together). ValueError for a
    task whose outputs cannot be explained.
    """
    task = setup.tasks[name]
    if task.head not in ASKS:
        raise ValueError(f"task {name} asks the model to {task.head}: explained are {ASKS}")
    if images.ndim != 4:
        raise DataError(f"explained are pictures [B, H, W, 3], these are {list(images.shape)}")
    inputs = rows(task, texts)
    pick = np.ones((len(texts), 1), np.float32)
    if task.head == "reconstruct":
        match: Any = task
        pick = np.where(np.arange(2) == match.match_class, 1.0, -1.0) * pick
    if task.head == "generate":
        pick = np.asarray(inputs["targets_mask"], np.float32)
        if places is not None:
            pick = np.zeros_like(pick)
            for row, chosen in enumerate(places):
                pick[row, list(chosen)] = 1.0
    arrays = jax.tree.map(jnp.asarray, dict(inputs))
    return Subject(task.head, normalised(setup.model, images), arrays, jnp.asarray(pick))
