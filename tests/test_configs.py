"""Every config file runs as `:smoke`, and its full size has the parameters it promises."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from vlm_jax import experiment, train, trees, workdir
from vlm_jax.data import pipeline
from vlm_jax.step import initial_state

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(p for p in FOLDER.rglob("*.py") if p.name not in ("common.py", "__init__.py"))
NAMES = [str(path.relative_to(FOLDER)) for path in FILES]


def load(name, arg=None):
    """The config of a file, as launch.py reads it."""
    spec = importlib.util.spec_from_file_location("a_config", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return workdir.to_json(module.get_config(arg))


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    metrics = train.train(load(name, "smoke"), tmp_path)
    assert metrics
    assert all(np.isfinite(value) for key, value in metrics.items() if "masked" not in key)


@pytest.mark.parametrize("name", NAMES)
def test_full_config_says_how_to_run_it_and_has_known_keys(name):
    config = load(name)
    experiment.check_config(config)
    assert f"--config=configs/{name}" in (FOLDER / name).read_text()


def parameters(name, **vocabularies):
    """Parameter shapes of a config at full size, on the built-in data."""
    config = load(name)
    config["data"]["train"] = common.scenes("train", length=64)
    config["data"]["tokenizer"] = {"name": "word", "examples": 64}
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    tasks = {task: setup.tasks[task].preprocess for task in setup.tasks}
    batch = pipeline.stack([pipeline.Loader(source, setup.read, tasks)(0)])
    return jax.eval_shape(lambda: initial_state(setup, batch, 0))["params"]


def test_the_merge_captioner_has_the_published_number_of_parameters():
    params = parameters("captioning/vgg16_lstm_merge.py")
    assert trees.count_parameters(params["decoder"]) == 5_527_963
    assert trees.count_parameters(params["vision"]) == 138_357_544 - 4_097_000  # without classes


def test_resnet_bert_has_the_towers_of_the_papers():
    params = parameters("retrieval/resnet_bert.py")
    assert trees.count_parameters(params["vision"]) == 23_508_032
    assert trees.count_parameters(params["text"]) == 109_482_240


def test_resnet_gru_has_two_layers_of_256():
    params = parameters("vqa/resnet_gru.py")
    recurrent = {k: v for k, v in params["text"].items() if k != "embedding"}
    first, second = 3 * (300 * 256 + 256 * 256 + 256) + 256, 3 * 2 * 256 * 256 + 3 * 256 + 256
    assert trees.count_parameters(recurrent) == first + second


def test_arguments_are_typed():
    arg = common.parse_arg("res=64,smoke", res=224, smoke=False, rate=0.5)
    assert (arg.res, arg.smoke, arg.rate) == (64, True, 0.5)
    with pytest.raises(ValueError, match="did you mean 'smoke'"):
        common.parse_arg("smok", smoke=False)
    with pytest.raises(ValueError, match="must be of type int"):
        common.parse_arg("res=big", res=224)
    with pytest.raises(ValueError, match="true or false"):
        common.parse_arg("smoke=maybe", smoke=False)
