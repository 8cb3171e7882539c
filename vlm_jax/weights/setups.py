"""What a published folder needs besides its weights to be asked, evaluated and fine-tuned: how its
pictures are read, its tokenizer, and the tasks that its network can do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import kwargs, models
from vlm_jax.data.pipeline import InputReader
from vlm_jax.experiment import Experiment
from vlm_jax.tasks import TASKS
from vlm_jax.tokenizers import Tokenizer, make_tokenizer
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights.chat_template import chat_format
from vlm_jax.weights.family import Config, Family, class_names
from vlm_jax.weights.preprocessing import image_fields, read_processor, region_fields
from vlm_jax.weights.pretrained import Pretrained, frames_of, with_image_token

BLIND: dict[str, Any] = dict(size=0, fit="none")
"""How pictures are read for a network that sees none."""

TEXT, MASKED = 512, 128
"""Most tokens of a text that is gone on with, and of one with blanks, where the network's limit is
no lower.
"""

TURNS, REPLY = 2048, 128
"""Most tokens of a conversation that is scored, and of an answer in any."""

MANY = 8192
"""Words whose scores a language model's loss computes at a time."""


def experiment_of(found: Pretrained, folder: str | Path) -> Experiment:
    """The experiment that a folder describes without a config.

    A network without a task of ours, such as a bare encoder, still has its features. WeightsError
    or ValueError if the folder's files do not say how pictures or texts are read.
    """
    family, config = found.family, found.config
    model, special = family.model(config), found.special_tokens()
    tokenizer = tokenizer_of(model, folder, special)
    reader, statistics = reader_of(family, config, folder)
    model = with_image_token(family, model, tokenizer) | statistics
    sections = family.tasks(config) or usual_tasks(model, config, tokenizer, special)
    if "completion" in sections and "text" not in model:
        turns = chat_format(folder, tokenizer)
        length = min(TURNS, model["decoder"]["max_length"])
        turns = turns and dict(format=turns, answer_length=REPLY, length=length)
        sections |= {"chat": turns} if turns else {}
    tasks = {
        name: kwargs.build(TASKS, {"name": name, **section}, "tasks", tokenizer=tokenizer)
        for name, section in sections.items()
    }
    shares: dict[str, Any] = {
        "weights": dict.fromkeys(tasks, 1.0),
        "per_image": dict.fromkeys(tasks, 1),
    }
    described = {"model": model, "tasks": sections, "data": {"image": reader}}
    network, read = models.build(model), InputReader(**reader)
    return Experiment(described, tokenizer, tasks, model=network, read=read, **shares)


def reader_of(
    family: Family, config: Config, folder: str | Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of `data.pipeline.InputReader`, image_mean and image_std of the model, if any)."""
    model = family.model(config)
    vision = dict(model.get("vision") or {})
    if not vision:
        return dict(BLIND), {}
    if vision["name"] == "precomputed":
        return dict(size=dict(model["decoder"])["width"], fit="regions"), {}
    if family.pictures is not None and not read_processor(folder):
        return family.pictures(config)
    reader, statistics = region_fields(family, config) or image_fields(folder)
    count = family.tasks(config).get("classification", {}).get("pictures")
    several = dict(pictures=count) if (count or 1) > 1 else {}
    return reader | several | frames_of(model), statistics


def reads_texts(model: Config) -> bool:
    """Whether a network has a part for texts. model: config.model."""
    return bool(model.get("text") or model.get("decoder"))


def tokenizer_of(model: Config, folder: str | Path, special: Mapping[str, Any]) -> Tokenizer:
    """The folder's tokenizer; bytes for a network that reads no texts. special: see
    `Pretrained.special_tokens`. ValueError if the folder has none.
    """
    if not reads_texts(model):
        return make_tokenizer({"name": "byte"}, lambda: ())
    ends = special.get("sep_token_id", special.get("eos_token_id"))
    return read_tokenizer(folder, None if ends is None else tuple(map(int, np.atleast_1d(ends))))


def usual_tasks(
    model: Config, config: Config, tokenizer: Tokenizer, special: Mapping[str, Any]
) -> dict[str, Any]:
    """config.tasks of a network whose family says nothing: what its parts make possible.

    model: config.model. config: config.json, which may name classes.
    """
    vision, text, decoder = (dict(model.get(part) or {}) for part in ("vision", "text", "decoder"))
    if decoder:
        return {"captioning": {}} if vision else _writing(text, decoder, tokenizer, special)
    tasks: dict[str, Any] = {}
    length = min(MASKED, text.get("max_length", MASKED))
    if model.get("reconstruct"):
        tasks["masked_pretraining"] = masked_words(length)
    classes = dict(model.get("classify") or {}).get("classes", vision.get("classes"))
    if classes:
        tasks["classification"] = dict(labels=class_names(config, classes), length=length)
    return tasks


def masked_words(length: int) -> dict[str, Any]:
    """The task of a network that fills blanks and judges no match."""
    return dict(length=length, match_weight=0.0, mismatch_rate=0.0)


def _writing(
    text: Config, decoder: Config, tokenizer: Tokenizer, special: Mapping[str, Any]
) -> dict[str, Any]:
    """Completion as the reference has it: a text begins with what the tokenizer puts in front of
    it, or, where an encoder reads it, what is written begins with decoder_start_token_id.
    """
    before = tokenizer.before if tokenizer.framed else ()
    if text:
        before = (int(special.get("decoder_start_token_id", tokenizer.pad)),)
    blocked = MANY if decoder["vocab"] > MANY else None
    length = min(TEXT, decoder["max_length"])
    found = dict(before=before, ended=bool(text), encoded=bool(text), blocked=blocked)
    return {"completion": found | dict(length=length)}
