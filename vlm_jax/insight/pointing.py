"""The pointing game: does the hottest point of a map lie on what the words are about?

The measure of excitation backpropagation (arXiv:1608.00507, section 4.1) on scenes whose boxes are
known: an answer is about the object that the question names, a pair such as "red circle" in a
caption about the one red circle. Beside each method stand points that need no model, and the same
method on random parameters, which must fail (arXiv:1810.03292).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vlm_jax.api import Model
from vlm_jax.data.scene_graph import ATTRIBUTES, COLOURS, RADII, SHAPES
from vlm_jax.data.schema import Example, Source
from vlm_jax.insight import maps
from vlm_jax.insight.explain import METHODS, ROWS, Explainer
from vlm_jax.insight.subject import NothingSeen, Word, subject_of, words
from vlm_jax.metrics.bootstrap import bootstrap_interval
from vlm_jax.types import Variables

MARGIN = 0.03
"""How far outside of a box still counts, in image sides: 15 pixels of about 500 in the paper."""

_NAMING = {*COLOURS, *RADII, *SHAPES}
_PLAIN = {f"{shape}{end}": shape for shape in SHAPES for end in ("", "s", "es")}


class Case(NamedTuple):
    """One point to be hit. texts: see `insight.subject.rows`. places: target tokens that are about
    the object, None for an answer. box: x0, y0, x1, y1 of the object in [0, 1]; boxes: of all.
    """

    image: Any
    texts: Mapping[str, str]
    places: tuple[int, ...] | None
    box: Sequence[float]
    boxes: Sequence[Sequence[float]]


class Result(NamedTuple):
    """Share of points that hit, in [0, 1], with its 95 % bootstrap interval over n cases."""

    hits: float
    low: float
    high: float
    n: int


def asked_object(question: str, objects: Sequence[Mapping[str, Any]]) -> int | None:
    """The one object that "what colour is the large circle" is about, None if not just one."""
    named = _NAMING & set(question.split())
    found = [i for i, thing in enumerate(objects) if named <= {thing[key] for key in ATTRIBUTES}]
    return found[0] if len(found) == 1 else None


def mentioned(
    said: Sequence[Word], objects: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(object, places of the tokens) of each "red circle" in a text that fits just one object."""
    for first, second in itertools.pairwise(said):
        pair = (first.text, _PLAIN.get(second.text))
        fit = [i for i, o in enumerate(objects) if (o["colour"], o["shape"]) == pair]
        if len(fit) == 1:
            yield fit[0], (*first.places, *second.places)


def answer_cases(model: Model, source: Source) -> list[Case]:
    """For each example the first question about an attribute of one object, if answered right."""
    asked = []
    for i in range(len(source)):
        example = source[i]
        objects = example.get("scene", {})["objects"]
        for question in example["questions"]:
            target = asked_object(question["question"], objects)
            if question.get("type") in ATTRIBUTES and target is not None:
                asked.append((example, question, target))
                break
    given = model.answer([e["image"] for e, _, _ in asked], [q["question"] for _, q, _ in asked])
    return [
        Case(example["image"], _question(question), None, *_boxes(example, target))
        for (example, question, target), answer in zip(asked, given, strict=True)
        if answer == question["answers"][0]
    ]


def _question(question: Mapping[str, Any]) -> dict[str, str]:
    return {"question": question["question"], "text": question["answers"][0]}


def _boxes(example: Example, target: int) -> tuple[list[float], list[list[float]]]:
    boxes = [region["box"] for region in example.get("regions", ())]
    return boxes[target], boxes


def caption_cases(model: Model, source: Source, seed: int = 0) -> list[Case]:
    """For each example one of the pairs, drawn at random, that the model's caption gets right."""
    setup = model.run.experiment
    name = next(name for name, task in setup.tasks.items() if hasattr(task, "prompt"))
    examples = [source[i] for i in range(len(source))]
    captions = model.caption([example["image"] for example in examples])
    rng, cases = np.random.default_rng(seed), []
    for example, caption in zip(examples, captions, strict=True):
        if not caption.strip():
            continue
        texts = {"text": caption}
        inputs = setup.tasks[name].preprocess(
            Example(id="", image="", captions=[caption], questions=[]), None
        )
        said = words(setup, {key: np.asarray(value)[None] for key, value in inputs.items()}, 0)
        found = list(mentioned(said, example.get("scene", {})["objects"]))
        if found:
            target, places = found[rng.integers(len(found))]
            cases.append(Case(example["image"], texts, places, *_boxes(example, target)))
    return cases


def points(
    explainer: Explainer, task: str, cases: Sequence[Case], method: str
) -> Float[np.ndarray, "n 2"]:
    """The hottest point (x, y) in [0, 1] of each case's map; the middle of the hottest pixels."""
    setup, found = explainer.model.run.experiment, []
    for start in range(0, len(cases), ROWS):
        part = cases[start : start + ROWS]
        images = np.stack([setup.read(case.image, None)[0] for case in part])
        places = None if part[0].places is None else [case.places or () for case in part]
        subject = subject_of(setup, task, images, [case.texts for case in part], places)
        for shares in explainer.shares(method, subject):
            found.append(hottest(maps.heat(shares, *images.shape[1:3])))
    return np.array(found)


def hottest(heat: maps.Heat) -> tuple[float, float]:
    """(x, y) in [0, 1] of the maximum, the mean of equal ones."""
    rows, columns = np.nonzero(heat >= heat.max())
    return (columns.mean() + 0.5) / heat.shape[1], (rows.mean() + 0.5) / heat.shape[0]


def hits(found: Float[np.ndarray, "n 2"], cases: Sequence[Case]) -> np.ndarray:
    """1.0 where a point is inside its case's box or at most MARGIN outside, else 0.0."""
    boxes = np.array([case.box for case in cases])
    inside = (found >= boxes[:, :2] - MARGIN) & (found <= boxes[:, 2:] + MARGIN)
    return inside.all(axis=1).astype(float)


def baselines(cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Chances of hitting without a model: in the centre, anywhere, on any one object."""
    boxes = np.array([case.box for case in cases])
    sides = np.clip(boxes[:, 2:] + MARGIN, 0, 1) - np.clip(boxes[:, :2] - MARGIN, 0, 1)
    return {
        "centre of the picture": hits(np.full((len(cases), 2), 0.5), cases),
        "random point": sides.prod(axis=1),
        "centre of a random object": np.array([1.0 / len(case.boxes) for case in cases]),
    }


def result(each: np.ndarray) -> Result:
    """The mean of hits or chances with its interval."""
    return Result(float(np.mean(each)), *bootstrap_interval(each), len(each))


def randomised(model: Model, cases: Sequence[Case], task: str, seed: int = 1) -> Variables:
    """The model's variables drawn anew, as for a new training run."""
    setup, case = model.run.experiment, cases[0]
    image = setup.read(case.image, None)[0][None]
    places = None if case.places is None else [case.places]
    subject = subject_of(setup, task, image, [case.texts], places)
    batch = {"image": subject.image, "asked": subject.inputs}
    with jax.set_mesh(model.run.mesh):
        drawn = jax.jit(lambda key: setup.model.init(key, batch, {"asked": subject.ask}))(
            jax.random.key(seed)
        )
    return drawn


def play(
    model: Model, task: str, cases: Sequence[Case], methods: Sequence[str] = tuple(METHODS)
) -> Iterator[tuple[str, Result]]:
    """(row of the table, result): baselines, then each method on the model and, marked
    "randomised", on random parameters. Methods that find nothing in this model are left out.
    """
    if not cases:
        raise ValueError("there is nothing to point at: this model got no word or answer right")
    for name, each in baselines(cases).items():
        yield name, result(each)
    new = Explainer(model, randomised(model, cases, task))
    for name in methods:
        for explainer, label in ((Explainer(model), name), (new, f"{name}, randomised")):
            try:
                found = points(explainer, task, cases, name)
            except NothingSeen:
                continue
            yield label, result(hits(found, cases))
