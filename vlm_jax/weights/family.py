"""What a family of published checkpoints consists of, and how its config.json is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlm_jax.kwargs import suggestion
from vlm_jax.weights.convert import Renames
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Rules

Config = Mapping[str, Any]
"""A config.json, or one of its sections."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a checkpoint's tensors, by their names."""

Call = Callable[..., dict[str, Any]]
"""(apply, inputs, flags) -> outputs by the reference's names.

apply: `model.apply` with the variables bound. inputs: the reference's arguments, as arrays under
the reference's names (pixel_values [B, 3, H, W], input_ids [B, T], ...). flags: its plain options.
Everything is traceable: gradients pass through.
"""


@dataclass(frozen=True)
class Family:
    """How checkpoints of one or several model types become models of ours.

    model: config.json -> our config.model. rules: config.json -> the mapping table. example:
    config.json -> (batch, asks), the smallest batch that touches every parameter, for
    `VisionLanguageModel.init`. calls: the reference's calls ("forward", "contrast", "match",
    "generate") in our terms. renames: from other names that such checkpoints use to the ones in the
    table. ignored: regular expressions of whole names that mean nothing here, or a function of
    config.json that lists them. tasks: config.json -> our config.tasks, empty for a bare network.
    settle: (config.json, shapes of the tensors) -> config.json with what the tensors alone tell.
    files: what a folder calls its config.json and its tensors (.safetensors or .npz). image_word:
    the token from which on a decoder sees the picture, where only the tokenizer knows its id.
    """

    model: Callable[[Config], dict[str, Any]]
    rules: Callable[[Config], Rules]
    example: Callable[[Config], tuple[dict[str, Any], dict[str, str]]]
    calls: Mapping[str, Call]
    renames: Renames = ()
    ignored: Sequence[str] | Callable[[Config], Sequence[str]] = ()
    tasks: Callable[[Config], dict[str, Any]] = field(default=lambda config: {})
    settle: Callable[[Config, Shapes], Config] = field(default=lambda config, shapes: config)
    files: tuple[str, str] = ("config.json", "model.safetensors")
    image_word: str | None = None


ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Activation functions by the names that config.json files give them."""


def activation(config: Config, key: str = "hidden_act") -> str:
    """Our name of the activation in config[key]; WeightsError for one that is not here."""
    return one_of(config, key, ACTIVATION_NAMES)


def one_of(config: Config, key: str, known: Mapping[Any, Any]) -> Any:
    """known[config[key]]; WeightsError naming the key and the value if it is not among them."""
    if config[key] not in known:
        hint = suggestion(str(config[key]), [str(name) for name in known])
        raise WeightsError(
            f"config.json: {key}={config[key]!r} is not supported; {hint}"
            f"known: {', '.join(map(str, known))}"
        )
    return known[config[key]]


def require(config: Config, **expected: Any) -> None:
    """WeightsError for a key that is there with another value than the only one supported."""
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise WeightsError(
                f"config.json: {key}={config[key]!r} is not supported, only {value!r} is"
            )


def square(config: Config, key: str) -> int:
    """The side that config[key] gives once or, equal, twice; WeightsError for a rectangle."""
    value = config[key]
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise WeightsError(f"config.json: {key}={value!r} is not supported, only squares are")
    return int(sides.pop())


def sides(config: Config, key: str) -> tuple[int, int]:
    """Height and width of config[key], which gives one number or two."""
    value = config[key]
    if isinstance(value, int):
        return value, value
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise WeightsError(f"config.json: {key}={value!r} is not one number, or two")
    return int(value[0]), int(value[1])


def labels(config: Config) -> int:
    """Number of classes: config.json names them, or counts them, or means two."""
    return len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))


def writing_tasks(
    template: str,
    *,
    prompt: str = "",
    length: int = 32,
    question_length: int = 64,
    picture: Config | None = None,
    chat: Config | None = None,
) -> dict[str, Any]:
    """Captions and answers of a decoder that reads the picture and its prompt.

    template: of both, see `data.text.fill`. prompt: what is asked for a caption. length: of a text
    that is written, in tokens. picture: what stands for the picture in the template, if anything,
    see `data.picture_words.with_picture`. chat: how a conversation is arranged, if the model can
    hold one: fields of `data.turns.Format` but the picture.
    """
    shared: dict[str, Any] = dict(template=template) | (dict(picture=picture) if picture else {})
    lengths = dict(length=question_length + length, question_length=question_length)
    turns = dict(format=dict(chat or {}, picture=picture), answer_length=length, length=2048)
    return {
        "captioning": shared | dict(length=length, prompt=prompt),
        "vqa_generation": shared | lengths,
    } | ({} if chat is None else {"chat": turns})


def answer_task(config: Config, count: int, length: int) -> dict[str, Any]:
    """Answers chosen among `count` classes, by the names that config.json gives them, or else
    LABEL_0, LABEL_1 and so on. length: of questions, in tokens.
    """
    named = config.get("id2label") or {}
    names = {int(number): str(name) for number, name in named.items()}
    if sorted(names) != list(range(count)):
        names = {number: f"LABEL_{number}" for number in range(count)}
    return {"vqa": dict(answers=tuple(names[i] for i in range(count)), length=length)}


TWO_WORDS = {"text": np.ones((1, 2), np.int32), "text_mask": np.ones((1, 2), bool)}
TWO_TOKENS = {
    "tokens": np.ones((1, 2), np.int32),
    "tokens_mask": np.ones((1, 2), bool),
    "prefix": np.zeros(1, np.int32),
}


def picture(size: int, width: int | None = None) -> np.ndarray:
    """A black picture, uint8[1, size, width, 3]."""
    return np.zeros((1, size, width or size, 3), np.uint8)


def pair_example(size: int) -> dict[str, Any]:
    """A batch of one picture and one text for a dual encoder."""
    return {"image": picture(size), "contrast": TWO_WORDS}


def language_example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The example of a language model without images."""
    return {"words": TWO_TOKENS}, {"words": "generate"}


def caption_example(size: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The example of a model that writes about a picture."""
    return {"image": picture(size), "words": TWO_TOKENS}, {"words": "generate"}
