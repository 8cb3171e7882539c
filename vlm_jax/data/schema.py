"""The one form in which every data set of this codebase hands out its examples, and its checks.

A source is anything with a `name`, a length and random access by position; what it returns is an
`Example`. Everything after it (tasks, pipeline, evaluators) reads this form only, so a new data set
is one new source and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np

Pixels = str | PathLike[str] | bytes | np.ndarray
"""A path, the bytes of an encoded file, or pixels as u8[H, W, 3]."""

Image = Pixels | Callable[[], Pixels]
"""An image as an example holds it: pixels, or a function without arguments that makes them late."""


@runtime_checkable
class Video(Protocol):
    """A video as an example holds it in place of an image. For whoever knows pictures only, it is
    one: the function that an image may be.
    """

    def __call__(self) -> Pixels:
        """The frame in the middle."""
        ...

    def frames(self, count: int) -> Iterator[Pixels]:
        """`count` frames, the middles of as many equal parts. DataError if it cannot be read."""
        ...


@runtime_checkable
class Audio(Protocol):
    """A sound as an example holds it."""

    def __call__(self, rate: int, seconds: float) -> np.ndarray:
        """Its first seconds, or all if it is shorter: f32[n] in [-1, 1], `rate` samples a second.
        DataError if it cannot be read.
        """
        ...


class DataError(ValueError):
    """Data that cannot be used. The message names the file or example, the key, and the remedy."""


class Question(TypedDict):
    """A question about an image. answers: at least one; repeats are votes of several annotators."""

    question: str
    answers: list[str]
    type: NotRequired[str]


class Region(TypedDict):
    """A labelled part of an image. box: [x0, y0, x1, y1] in [0, 1] of its width and height. labels:
    kind of label to its word, such as {"shape": "circle", "colour": "red"}. picture: which of the
    example's `pictures` it is a part of, the first if left out.
    """

    box: list[float]
    labels: dict[str, str]
    picture: NotRequired[int]


class Example(TypedDict):
    """One image with what is said about it.

    id: unique in its source. image: see `Image` and `Video`. captions, questions: possibly empty
    lists. label: a class name, for classification. regions: what is known of its parts. scene: the
    graph behind a rendered image, see `vlm_jax.data.scenes`. audio: how it sounds. content: what
    pictures and sounds of the same thing share: each of them is right for the others. pictures: all
    images of a dialogue, `image` first; its questions are the turns. A source may add further keys.
    """

    id: str
    image: Image
    captions: list[str]
    questions: list[Question]
    label: NotRequired[str]
    regions: NotRequired[list[Region]]
    scene: NotRequired[dict[str, Any]]
    audio: NotRequired[Audio]
    content: NotRequired[str]
    pictures: NotRequired[list[Image]]


@runtime_checkable
class Source(Protocol):
    """A data set with random access: deterministic, and cheap as long as no image is decoded."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """The example at a position in [0, len); IndexError outside it."""
        ...


def inside(index: int, source: Source) -> int:
    """The index, if the source has it; IndexError otherwise, which also ends a `for` over it."""
    if not 0 <= index < len(source):
        raise IndexError(f"position {index} is outside [0, {len(source)}) of {source.name}")
    return index


def validate(example: Any, where: str, answered: bool = True) -> Example:
    """The same example, once it is known to have the right form. Pixels are not decoded.

    where: what to call the example in an error, such as "data.jsonl, line 7". answered: whether
    every question needs answers; else it gets an empty list for none. Raises DataError.
    """
    if not isinstance(example, Mapping):
        raise DataError(f"{where}: an example is a dict, this is {_kind(example)}")
    missing = [key for key in Example.__required_keys__ if key not in example]
    if missing:
        raise DataError(
            f"{where}: {', '.join(sorted(missing))} missing; an example needs id, image, "
            "captions and questions (the last two may be empty lists)"
        )
    _text(example["id"], where, "id")
    _image(example["image"], where)
    _texts(example["captions"], where, "captions")
    _questions(example["questions"], where, answered)
    if "label" in example:
        _text(example["label"], where, "label")
    return example  # pyright: ignore[reportReturnType]


def _kind(value: Any) -> str:
    """What an error says about a value of the wrong type."""
    return "null" if value is None else f"a {type(value).__name__} ({str(value)[:40]!r})"


def _text(value: Any, where: str, key: str) -> None:
    """Requires a text with at least one character that is not white space."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} must be a text, this is {_kind(value)}; put it in quotes")
    if not value.strip():
        raise DataError(f"{where}: {key} is empty; fill it in or remove it")


def _texts(values: Any, where: str, key: str) -> None:
    """Requires a list of texts, none of them empty."""
    if not isinstance(values, (list, tuple)):
        raise DataError(
            f"{where}: {key} must be a list of texts, this is {_kind(values)}; write [...] "
            "around it"
        )
    for position, value in enumerate(values):
        _text(value, where, f"{key}[{position}]")


def _questions(questions: Any, where: str, answered: bool) -> None:
    """Requires a list of dicts with a question and at least one answer each, unless they are to be
    answered.
    """
    if not isinstance(questions, (list, tuple)):
        raise DataError(f"{where}: questions must be a list of dicts, this is {_kind(questions)}")
    for position, question in enumerate(questions):
        key = f"questions[{position}]"
        if not isinstance(question, Mapping):
            raise DataError(f"{where}: {key} must be a dict, this is {_kind(question)}")
        if not answered and "answers" not in question and isinstance(question, dict):
            question["answers"] = []
        if "question" not in question or "answers" not in question:
            raise DataError(f"{where}: {key} needs both a question and a list of answers")
        _text(question["question"], where, f"{key}.question")
        _texts(question["answers"], where, f"{key}.answers")
        if answered and not question["answers"]:
            raise DataError(
                f"{where}: {key}.answers is empty; give at least one answer or remove the question"
            )
        if "type" in question:
            _text(question["type"], where, f"{key}.type")


def _image(image: Any, where: str) -> None:
    """Requires one of the forms of `Image`, without opening or calling it."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise DataError(
                f"{where}: an image array must be uint8 [H, W, 3] and not empty, this is "
                f"{image.dtype} {list(image.shape)}; convert it with vlm_jax.data.images.decode"
            )
    elif isinstance(image, str):
        _text(image, where, "image")
    elif isinstance(image, bytes):
        if not image:
            raise DataError(f"{where}: image holds no bytes; the file may be empty")
    elif not isinstance(image, PathLike) and not callable(image):
        raise DataError(
            f"{where}: image must be a path, encoded bytes, a uint8 [H, W, 3] array or a function "
            f"returning one of these, this is {_kind(image)}"
        )
