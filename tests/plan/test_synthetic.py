"""Configs without their data."""

import numpy as np
import pytest

from tests import tiny
from tests.test_configs import load
from vlm_jax import experiment
from vlm_jax.data.schema import DataError
from vlm_jax.plan.synthetic import example_batch, examples_per_epoch, stand_in


def batch_of(config, rows):
    config = stand_in(config)
    source = experiment.source(config["data"]["train"], "train")
    return example_batch(experiment.build(config, None, source), rows)


def test_shapes_are_those_of_the_config_whatever_its_data():
    batch = batch_of(load("vqa/paligemma.py", "text=128"), 2)
    assert batch["image"].shape == (2, 224, 224, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["vqa"]["tokens"].shape == (2, 256 + 128)
    assert int(batch["vqa"]["prefix"][0]) > 256  # the image's tokens are all there


def test_answers_that_are_to_be_learned_are_as_many():
    config = tiny.config()
    config["tasks"]["vqa"] = {"answers": 3129}
    assert len(stand_in(config)["tasks"]["vqa"]["answers"]) == 3129


def test_epochs_of_known_data_sets():
    coco = {"name": "tfds", "dataset": "coco_captions/2014:1.1.0", "split": "train"}
    assert examples_per_epoch(coco) == 82_783
    assert examples_per_epoch(tiny.config()["data"]["train"]) == 64


def test_the_size_of_a_data_set_that_is_not_here_is_unknown(tmp_path):
    assert examples_per_epoch({"name": "jsonl", "path": str(tmp_path / "none")}) is None


def test_features_computed_beforehand_have_shapes_of_their_own():
    config = tiny.captioner()
    config["model"] = {**config["model"], "vision": {"name": "precomputed", "width": 8}}
    with pytest.raises(DataError, match="only the data set knows"):
        batch_of(config, 1)
