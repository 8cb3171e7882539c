"""What a config describes, built and checked in seconds: tokenizer, tasks, model, image reader.
Nothing is compiled.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_jax import kwargs, models
from vlm_jax.data.audio import AudioReader
from vlm_jax.data.augment import Augment
from vlm_jax.data.images import FITS
from vlm_jax.data.packing import Packing
from vlm_jax.data.pipeline import InputReader, Preprocess, several
from vlm_jax.data.schema import DataError, Source
from vlm_jax.data.sources import make_source
from vlm_jax.models.vision_language import VisionLanguageModel
from vlm_jax.tasks import TASKS, Task
from vlm_jax.tasks.vqa import answer_vocabulary
from vlm_jax.tokenizers import Tokenizer, make_tokenizer
from vlm_jax.workdir import atomic_write_text

KEYS = (
    *("seed", "batch_size", "total_steps", "total_examples", "total_epochs", "model", "tasks"),
    *("data", "evals", "optimizer", "schedule", "mesh", "checkpoint", "logs", "init", "expected"),
)
"""Top-level keys, the same in every config."""

DATA_KEYS = (
    *("train", "image", "audio", "augment", "tokenizer", "threads", "prefetch", "on_error"),
    "packing",
)
EVAL_KEYS = (
    *("task", "data", "options"),
    *("every_steps", "every_examples", "every_epochs", "every_percent"),
)


@dataclass(frozen=True)
class Experiment:
    """Everything a config describes but the data itself and the parameters.

    tasks: task name to task. weights: task name to its weight in the loss. per_image: task name to
    how many texts of an image one training step uses. asks: task name to model method. read:
    decodes images; its augmentation is for training only. packing: how training rows hold several
    examples, if they do.
    """

    config: Mapping[str, Any]
    tokenizer: Tokenizer
    tasks: Mapping[str, Task]
    weights: Mapping[str, float]
    per_image: Mapping[str, int]
    model: VisionLanguageModel
    read: InputReader
    packing: Packing | None = None

    def units(self, examples_per_epoch: int | None) -> dict[str, Any]:
        """What durations in examples and epochs are counted with (see `optim.to_steps`); nothing
        where rows hold as many examples as fit, so that none can be given.
        """
        if self.packing is not None:
            return {}
        known = self.config["batch_size"]
        return {"batch_size": known, "examples_per_epoch": examples_per_epoch}

    @property
    def asks(self) -> dict[str, str]:
        """Task name to the model method that it needs."""
        return {name: asked(task) for name, task in self.tasks.items()}

    @property
    def preprocess(self) -> dict[str, Preprocess]:
        """Task name to what training makes of an example: `per_image` texts where that is above
        1.
        """
        return {
            name: task.preprocess
            if task.texts is None or self.per_image[name] == 1
            else several(task.preprocess, task.texts, self.per_image[name])
            for name, task in self.tasks.items()
        }


def asked(task: Task) -> str:
    """The model method whose outputs a task's loss reads: its head, or one that yields the same
    with less memory, or more than that.
    """
    if getattr(task, "blocked", None):
        return "unembed"
    if getattr(task, "match", None) is None:
        return task.head
    return "match" if getattr(task, "contrast", True) else "pair"


def check_config(config: Mapping[str, Any]) -> None:
    """TypeError, with a suggestion, for an unknown or missing key in any section that this codebase
    reads itself.
    """
    kwargs.check_keys(config, KEYS, "config")
    for key in ("model", "tasks", "data", "optimizer"):
        if not config.get(key):
            raise TypeError(f"config lacks the required key {key!r}")
    kwargs.check_keys(config["data"], DATA_KEYS, "config.data")
    if not config["data"].get("train"):
        raise TypeError("config.data lacks the required key 'train'")
    for name, evaluation in dict(config.get("evals") or {}).items():
        kwargs.check_keys(evaluation, EVAL_KEYS, f"config.evals.{name}")
        if evaluation.get("task") not in config["tasks"]:
            tasks = ", ".join(config["tasks"])
            raise ValueError(
                f"config.evals.{name}.task is {evaluation.get('task')!r}, which is not one of: "
                f"{tasks}"
            )


def build(
    config: Mapping[str, Any], folder: Path | None, train: Source | None = None
) -> Experiment:
    """The experiment of a config whose learned vocabularies lie, or are to be written, in `folder`
    (None: keep no files).

    train: the training source, from which missing vocabularies are learned; without it they must
    exist (FileNotFoundError). TypeError, ValueError or InvalidModel say which key to change.
    """
    check_config(config)
    tokenizer = _tokenizer(config, folder, train)
    tasks, weights, per_image = {}, {}, {}
    for name, section in config["tasks"].items():
        given = dict(section or {})
        weights[name] = float(given.pop("weight", 1.0))
        task = kwargs.lookup(TASKS, given.pop("name", name), f"config.tasks.{name}.name")
        for field in ("answers", "labels"):
            if field in kwargs.keywords(task):
                given[field] = _vocabulary(given.get(field), field, name, folder, train)
        per_image[name] = _per_image(given.pop("per_image", 1), task, name)
        tasks[name] = kwargs.call(task, given, f"config.tasks.{name}", tokenizer=tokenizer)
    asks = {name: asked(task) for name, task in tasks.items()}
    in_text = any(getattr(task, "question_to", "") == "text" for task in tasks.values())
    model = _with_classes(config["model"], tasks)
    models.check(model, asks, in_text)
    _check_towers(model, tasks)
    _check_vocabularies(model, tokenizer)
    data = config["data"]
    read = _reader(data, model)
    packing = _packing(data.get("packing"), tasks, per_image, read)
    parts = (tokenizer, tasks, weights, per_image, models.build(model), read, packing)
    return Experiment(config, *parts)


def _reader(data: Mapping[str, Any], model: Mapping[str, Any]) -> InputReader:
    """What reads pictures and sounds, as far as there are encoders for them. ValueError for an
    audio encoder without config.data.audio, or the reverse.
    """
    make = lambda kind, key: (
        kwargs.call(kind, data[key], f"config.data.{key}") if data.get(key) else None
    )
    parts = {"augment": make(Augment, "augment"), "listen": make(AudioReader, "audio")}
    if (model.get("audio") is None) != (parts["listen"] is None):
        raise ValueError(
            "config.model.audio and config.data.audio need each other: the one is the encoder of "
            "sounds, the other says how they are read"
        )
    image = data.get("image")
    if image is None and "name" not in model and not (model.get("vision") or model.get("decoder")):
        image = {"size": 0, "fit": "none"}
    return kwargs.call(InputReader, image, "config.data.image", **parts)


def _packing(
    given: Any, tasks: Mapping[str, Task], per_image: Mapping[str, int], read: InputReader
) -> Packing | None:
    """How rows hold several examples of the one task; ValueError where they cannot."""
    if not given:
        return None
    where, name = "config.data.packing", next(iter(tasks))
    if len(tasks) > 1 or asked(tasks[name]) not in ("generate", "unembed"):
        raise ValueError(
            f"{where} needs one task, which writes texts: {', '.join(tasks)} cannot share rows"
        )
    if per_image[name] > 1:
        raise ValueError(f"{where} and config.tasks.{name}.per_image exclude each other")
    if read.fit not in FITS or read.pictures:
        raise ValueError(f"{where} needs one picture an example, all of one size")
    return kwargs.call(Packing, dict(given), where, task=name)


def _per_image(count: Any, task: type[Task], name: str) -> int:
    """`count`, if the task can learn from that many texts of one image in a step; ValueError if
    not.
    """
    where = f"config.tasks.{name}.per_image"
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{where} is {count!r}: it must be a whole number of at least 1")
    if count > 1 and task.texts is None:
        raise ValueError(
            f"{where}={count}, but this task takes one text per image: the texts of one image are "
            "not each other's negatives, and not different examples of a class. Leave per_image out"
        )
    return count


def source(config: Mapping[str, Any], where: str) -> Source:
    """The data source of a config section. DataError if it is empty."""
    made = make_source(dict(config))
    if not len(made):
        raise DataError(f"{where}: {made.name} has no examples: check its split and filters")
    return made


def _texts(train: Source, limit: int) -> Iterator[str]:
    """Every caption, question and answer of the first `limit` examples."""
    for i in range(min(limit, len(train))):
        example = train[i]
        yield from example["captions"]
        for question in example["questions"]:
            yield question["question"]
            yield from question["answers"]


def _tokenizer(config: Mapping[str, Any], folder: Path | None, train: Source | None) -> Tokenizer:
    """The stored tokenizer of a run, or a new one learned from the training texts."""
    stored = folder / "tokenizer.json" if folder else None
    if stored and stored.exists():
        return Tokenizer.load(stored)
    given: dict[str, Any] = dict(config["data"].get("tokenizer") or {"name": "word"})
    limit = given.pop("examples", 20_000)
    if train is None:
        raise FileNotFoundError(f"{stored} is missing: this folder holds no finished run")
    tokenizer = make_tokenizer(given, lambda: _texts(train, limit))
    if stored:
        tokenizer.save(stored)
    return tokenizer


def _vocabulary(
    given: Any, field: str, task: str, folder: Path | None, train: Source | None
) -> tuple[str, ...]:
    """Answers or labels as listed in the config, stored with the run, or learned from the training
    source.

    given: a list; or how many to learn, the commonest first; or None for all.
    """
    if given is not None and not isinstance(given, int):
        return tuple(given)
    stored = folder / f"{task}_{field}.json" if folder else None
    if stored and stored.exists():
        return tuple(json.loads(stored.read_text(encoding="utf-8")))
    if train is None:
        raise FileNotFoundError(f"{stored} is missing: this folder holds no finished run")
    if field == "answers":
        learned = answer_vocabulary(train, given or 10**9)
    else:
        labels = (train[i].get("label") for i in range(len(train)))
        learned = tuple(sorted({label for label in labels if label is not None}))
    if not learned:
        raise DataError(f"{train.name} has no {field} to learn config.tasks.{task}.{field} from")
    if stored:
        atomic_write_text(stored, json.dumps(learned, ensure_ascii=False, indent=1))
    return learned


def _with_classes(model: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The model's config with classify.classes filled in from the tasks' answers or labels where it
    is left out.

    ValueError if it is given and differs, or if two tasks differ.
    """
    head, own = model.get("classify"), dict(model.get("vision") or {}).get("classes")
    if head is None:
        for name, task in tasks.items() if own else ():
            if task.head == "classify" and len(_classes_of(task)) != own:
                raise ValueError(
                    f"config.model.vision.classes={own}, but task {name} has "
                    f"{len(_classes_of(task))} classes: leave it out and set "
                    "config.model.classify={}"
                )
        return dict(model)
    for name, task in tasks.items():
        labels = _classes_of(task)
        if labels is None:
            continue
        classes = head.get("classes", len(labels))
        if classes != len(labels):
            raise ValueError(
                f"config.model.classify.classes={classes}, but task {name} has {len(labels)} "
                "classes: "
                f"set classes={len(labels)}, or leave it out"
            )
        head = {**head, "classes": classes}
    return {**model, "classify": head}


def _classes_of(task: Task) -> Any:
    """The classes that a task tells apart, None for another kind of task."""
    return getattr(task, "answers", getattr(task, "labels", None))


def _check_towers(model: Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    """InvalidModel if a task compares what the model has no encoder for; ValueError for a token
    that begins matched texts and is not in the text encoder's table.
    """
    towers = {"image": "vision", "audio": "audio"}
    for name, task in tasks.items():
        for kind in getattr(task, "between", ()):
            part = towers.get(kind)
            if part and "name" not in model and not model.get(part):
                raise models.InvalidModel(
                    f"task {name} needs config.model.{part}: add it, or drop the task"
                )
        rows = dict(model.get("text") or {}).get("vocab")
        start = dict(getattr(task, "match", None) or {}).get("start")
        if start is not None and rows is not None and start >= rows:
            raise ValueError(
                f"config.tasks.{name}.match.start={start}, but config.model.text.vocab={rows}"
            )


def _check_vocabularies(model: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """ValueError if a table of the model has fewer rows than the tokenizer has tokens."""
    for part in ("text", "decoder", "reconstruct"):
        given = dict(model.get(part) or {})
        rows, extra = given.get("vocab"), given.get("extra_vocab", 0)
        if rows is not None and rows + extra < tokenizer.size:
            also = f" with extra_vocab={extra}" if extra else ""
            raise ValueError(
                f"config.model.{part}.vocab={rows}{also} is too small for the tokenizer's "
                f"{tokenizer.size} tokens: "
                f"set it to {tokenizer.size} or more"
            )
