"""What `Run.write` makes of a search: texts by position, of a list, drawn, several per image."""

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from vlm_jax import evaluate, experiment, sharding
from vlm_jax.data import in_memory
from vlm_jax.data.scenes import Scenes
from vlm_jax.evaluate import Run
from vlm_jax.layers.apart import with_apart

COUNT = 5


@pytest.fixture(scope="module")
def run():
    setup = experiment.build(tiny.captioner(), None, Scenes("train", size=32, length=16))
    task = setup.tasks["captioning"]
    query = {k: jnp.asarray(v)[None] for k, v in task.query(pictures()[0]).items()}
    image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    asks = {"captioning": "generate"}
    model = lambda key: setup.model.init(key, {"image": image, "captioning": query}, asks)
    mesh = sharding.make_mesh()
    variables = jax.device_put(jax.jit(model)(jax.random.key(0)), sharding.replicated(mesh))
    return Run(setup, variables, mesh, batch_size=8)


def pictures(order=range(COUNT)):
    scenes = Scenes("test", size=32, length=COUNT)
    source = in_memory.pictures([scenes[i]["image"]() for i in range(COUNT)])
    return [source[i] for i in order]


def write(run, source, **options):
    task = run.experiment.tasks["captioning"]

    class Named(list):
        name = "pictures"

    return run.write(Named(source), task.query, 8, **options)


def test_choices_are_the_only_texts(run):
    choices = ["a red circle", "a blue square", "a red square"]
    assert set(write(run, pictures(), choices=choices).values()) <= set(choices)
    best = write(run, pictures(), choices=choices, beams=4, n_best=3)
    assert all(sorted(texts) == sorted(choices) for texts in best.values())


def test_a_picture_draws_the_same_text_in_every_order(run):
    options = {"sample": True, "temperature": 3.0, "n_best": 2}
    made = len(run.programs.made)
    first = write(run, pictures(), **options)
    order = [3, 0, 4]
    again = write(run, pictures(order), **options)
    assert [again[i] for i in range(3)] == [first[i] for i in order]
    assert write(run, pictures(), seed=1, **options) != first
    assert len(run.programs.made) == made + 1
    assert run.programs.made[-1] == "batch 8, prompt 1, length 8, samples 2"


def test_where_much_is_written_layers_are_apart_and_texts_the_same(run, monkeypatch):
    parted = []
    monkeypatch.setattr(
        evaluate, "with_apart", lambda given: parted.append(with_apart(given)) or parted[-1]
    )
    options = {"sample": True, "temperature": 3.0, "n_best": 2}
    expected = write(run, pictures(), **options)
    assert not parted  # 8 tokens in one batch
    monkeypatch.setattr(evaluate, "STEPS", 8)
    assert write(run, pictures(), **options) == expected
    assert len(parted) == 1 and "apart" in parted[0] and "apart" not in run.variables
