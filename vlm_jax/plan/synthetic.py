"""A config without its data: built-in scenes in place of data sets and of published tokenizers, so
that shapes are known where neither is at hand. Models, lengths and batches stay as they are.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_jax import experiment
from vlm_jax.data import pipeline
from vlm_jax.data.schema import DataError
from vlm_jax.types import Batch

SCENES = {"name": "scenes", "split": "train", "length": 64}
EXAMPLES = {
    ("coco_captions", "train"): 82_783,  # arXiv:1504.00325: the 2014 split, as tfds has it
    ("vqav2", "train"): 82_783,  # the same images
    ("flickr30k", "train"): 29_000,  # arXiv:1412.2306, the usual split
}
"""Images in data sets that a config may name and this machine lack."""


def stand_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config on built-in scenes, from noise.

    Names of tokens that only a published tokenizer knows become [UNK], numbers of answers or
    classes become lists of so many.
    """
    scenes = lambda options: SCENES | options
    if config["data"].get("audio"):
        scenes = lambda options: {"name": "scene_sounds", "source": SCENES | options}
    data = {**config["data"], "train": scenes({}), "tokenizer": {"name": "word", "examples": 64}}
    tasks = {name: _task(config, dict(given or {})) for name, given in config["tasks"].items()}
    evals = {
        name: {**section, "data": scenes({"split": "test", "length": 8})}
        for name, section in dict(config.get("evals") or {}).items()
    }
    return {**config, "data": data, "tasks": tasks, "evals": evals, "init": None}


def _task(config: Mapping[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    for field in ("answers", "labels"):
        if isinstance(task.get(field), int):
            task[field] = [f"{field} {number}" for number in range(task[field])]
    if "template" in task:
        task["template"] = re.sub(r"\{<[^*}]*", "{[UNK]", task["template"])
    return task


def example_batch(setup: experiment.Experiment, rows: int) -> Batch:
    """A batch of `rows` times the first scene, as the tasks of an experiment of `stand_in` make it.

    DataError for a config whose images are features computed beforehand.
    """
    source = experiment.source(setup.config["data"]["train"], "config.data.train")
    loader = pipeline.Loader(source, setup.read, setup.preprocess, "raise")
    vision = dict(setup.config["model"].get("vision") or {})
    if vision.get("name") in ("precomputed", "regions"):
        raise DataError(
            f"config.model.vision {vision['name']!r} reads features whose shape only the data "
            "set knows: such a config cannot be planned"
        )
    return pipeline.stack([pipeline.example_row(loader, setup.packing)] * rows)


def examples_per_epoch(section: Mapping[str, Any]) -> int | None:
    """How many examples the training source of a config has; None if that is not known here."""
    base = re.split(r"[/:]", str(section.get("dataset")))[0]
    known = EXAMPLES.get((base, section.get("split", "train")))
    if known is not None:
        return known
    try:
        return len(experiment.source(section, "config.data.train"))
    except (DataError, OSError):
        return None


def rows_of(batch: Batch) -> int:
    """How many examples a batch has."""
    return int(np.shape(batch["index"])[0])
