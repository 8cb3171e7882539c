"""One step on eight devices is the same step, however parameters and activations are split."""

import dataclasses
from functools import lru_cache

import jax
import numpy as np
import pytest

from tests import tiny
from vlm_jax import experiment, sharding, trees
from vlm_jax.data import pipeline
from vlm_jax.program import make_program

CASES = [
    ("dual encoder", {"fsdp": 8}),
    ("dual encoder", {"fsdp": 2, "tensor": 2, "context": 2}),
    ("matching", {"data": 2, "fsdp": 2, "tensor": 2}),
    ("captioner", {"data": 2, "fsdp": 2, "tensor": 2}),
    ("captioner", {"data": 4, "context": 2}),
    ("prefix LM", {"fsdp": 2, "tensor": 2, "context": 2}),
    ("prefix LM", {"data": 2, "tensor": 4}),
]
SIZE = {"heads": 4, "mlp_width": 32, "width": 16, "layers": 2}
TEXT = {"vocab": 128, "max_length": 48} | SIZE
VISION = {"name": "vit", "patch": 8, "image_size": 32, "class_token": False, "pooling": "mean"}

MODELS = {
    "dual encoder": {
        "model": {
            "vision": VISION | SIZE,
            "text": {"name": "transformer"} | TEXT,
            "contrast": {"size": 8},
        },
        "tasks": {"retrieval": {"length": 16}},
    },
    "matching": {  # the wrong pairs that are drawn are those of the whole batch
        "model": {
            "vision": VISION | SIZE,
            "text": {"name": "transformer", "parts": ("self", "cross", "mlp")} | TEXT,
            "contrast": {"size": 8},
            "classify": {"classes": 2},
        },
        "tasks": {"retrieval": {"length": 16, "match": {"start": 127}}},
    },
    "captioner": {
        "model": {
            "vision": {"name": "resnet", "depth": 18, "stages": (1, 1), "width": 8}
            | {"norm": "group", "groups": 4, "stem": "small"},
            "decoder": {"name": "causal_lm", "memory": "attend"} | TEXT,
        },
        "tasks": {"captioning": {"length": 16}},
    },
    "prefix LM": {
        "model": {
            "vision": VISION | SIZE | {"remat": True},
            "decoder": {"name": "causal_lm", "memory": "prepend", "remat": True}
            | {"attention": {"kv_heads": 2}, "mlp": {"gated": True}, "max_length": 64}
            | (TEXT | {"max_length": 64}),
        },
        "tasks": {"vqa_generation": {}},
    },
}


def config(model):
    """A run of one of MODELS; momentum, whose first trace is the gradient."""
    optimizer = {"name": "momentum", "learning_rate": 1.0}
    given = MODELS[model] | {"optimizer": optimizer, "evals": {}, "schedule": {}}
    return tiny.config() | given | {"data": tiny.config()["data"] | {"augment": {}}}


@lru_cache
def prepared(model):
    """(experiment, a batch of eight rows, state) of one of MODELS, on no mesh yet."""
    settings = config(model)
    source = experiment.source(settings["data"]["train"], "data")
    setup = experiment.build(settings, None, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess)
    batch = pipeline.stack([loader(i) for i in range(8)])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    state = make_program(setup, mesh, batch, 64).jit_create()()
    # No parameter stays 0, so every one has a gradient. With less noise attention is all but
    # uniform, and gradients of its queries hardly more than their rounding.
    random = np.random.default_rng(0)
    noisy = lambda x: np.array(x) + 0.1 * random.normal(size=x.shape).astype(np.float32)
    return setup, batch, state | {"params": jax.tree.map(noisy, state["params"])}


def one_step(model, sizes, devices=None):
    """(loss, gradients by path, number of constraints in the program) of a step on a mesh, with
    every tensor split that can be.
    """
    setup, batch, state = prepared(model)
    setup = dataclasses.replace(setup, config={**setup.config, "mesh": {**sizes, "small": 0}})
    mesh = sharding.make_mesh(sizes, devices)
    program = make_program(setup, mesh, batch, 64)
    with jax.set_mesh(mesh):
        state = jax.device_put(state, program.shardings)
        placed = sharding.shard_batch(mesh, batch)
        step = jax.jit(program.update, out_shardings=(program.shardings, None))
        lowered = step.lower(state, placed)
        state, losses = lowered.compile()(state, placed)
    traces = {path.split("/trace/")[-1]: x for path, x in trees.flatten(state["optimizer"]).items()}
    gradients = {path: np.array(traces[path]) for path in trees.flatten(state["params"])}
    return float(losses["loss"]), gradients, lowered.as_text().count("sdy.sharding_constraint")


@lru_cache
def on_one_device(model):
    return one_step(model, {}, jax.devices()[:1])


@pytest.mark.parametrize(("model", "sizes"), CASES)
def test_a_step_on_eight_devices_is_the_step_on_one(model, sizes):
    expected, gradients, none = on_one_device(model)
    loss, found, constraints = one_step(model, sizes)
    assert none == 0
    assert constraints > 20  # a scan over layers shows those of one layer
    assert loss == pytest.approx(expected, rel=1e-5)
    whole = max(np.abs(gradient).max() for gradient in gradients.values())
    for path, gradient in gradients.items():
        # Keys' biases have no gradient but rounding: what they add to a row, softmax takes away.
        like = gradients[path.replace("key/bias", "value/bias")]
        scale = max(np.abs(like).max(), whole / 1000)
        np.testing.assert_allclose(found[path], gradient, rtol=0, atol=5e-6 * scale, err_msg=path)
        assert path.endswith("key/bias") or np.any(gradient), path
