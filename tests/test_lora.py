"""Low-rank adaptation: nothing changes at first, only factors change, merged is the same model."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vlm_jax import experiment, lora, sharding, trees
from vlm_jax.data import pipeline
from vlm_jax.plan.flops import count_flops
from vlm_jax.program import make_program
from vlm_jax.step import variables_of

TARGETS = ("vision/.*(query|value)", "decoder/.*mlp")
LORA = {"rank": 2, "alpha": 6, "targets": TARGETS}


@lru_cache
def prepared():
    """(experiment, batch of eight rows) of a captioner."""
    settings = tiny.captioner(data=tiny.config()["data"] | {"augment": {}})
    for part in settings["model"].values():
        part["dropout"] = 0.0
    source = experiment.source(settings["data"]["train"], "data")
    setup = experiment.build(settings, None, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess)
    return setup, pipeline.stack([loader(i) for i in range(8)])


@lru_cache
def program(**optimizer):
    """The training program on one device with these keys of config.optimizer."""
    setup, batch = prepared()
    given = {key: dict(value) if key == "lora" else value for key, value in optimizer.items()}
    given = {"name": "adamw", "learning_rate": 0.05, **given}
    setup = dataclasses.replace(setup, config={**setup.config, "optimizer": given})
    return make_program(setup, sharding.make_mesh(devices=jax.devices()[:1]), batch, 64)


def adapted(**more):
    return program(lora=tuple((LORA | more).items()))


@lru_cache
def two_steps():
    """Losses of two steps, the parameters before them and after."""
    run, (_, batch) = adapted(), prepared()
    state = run.jit_create()()
    before = jax.device_get(state["params"])
    update, losses = run.jit_update(), []
    for _ in range(2):
        state, found = update(state, batch)
        losses.append(float(found["loss"]))
    return losses, before, jax.device_get(state["params"])


def test_only_factors_change_and_the_loss_falls():
    losses, before, after = two_steps()
    assert losses[1] < losses[0]
    changed = {
        path
        for (path, old), new in zip(
            trees.flatten(before).items(), jax.tree.leaves(after), strict=True
        )
        if np.any(old != new)
    }
    assert changed == {path for path in trees.flatten(before) if path.endswith(("_a", "_b"))}


def test_the_first_step_is_that_of_the_base_model_and_merged_is_the_adapted_model():
    (setup, batch), (_, before, after) = prepared(), two_steps()
    batch = jax.tree.map(jnp.asarray, batch)
    outputs = jax.jit(lambda p: setup.model.apply({"params": p}, batch, setup.asks)["captioning"])
    plain = outputs(lora.merge(before))["logits"]
    base = trees.flatten(program().jit_create()()["params"])
    for path, x in trees.flatten(lora.merge(before)).items():
        np.testing.assert_array_equal(base[path], x)
    np.testing.assert_allclose(outputs(before)["logits"], plain, rtol=0, atol=1e-6)
    merged = variables_of({"params": after, "batch_stats": {}})["params"]
    assert not any("lora" in path for path in trees.flatten(merged))
    found, expected = outputs(after)["logits"], outputs(merged)["logits"]
    scale = np.abs(found).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    assert np.abs(found - plain).max() > 1e-3 * scale


def test_counts_are_exact():
    run, base = adapted(), program()
    added = trees.count_parameters(run.shapes["params"]) - trees.count_parameters(
        base.shapes["params"]
    )
    width, mlp, layers = 16, 16, 1
    attention, dense = 2 * (width + width) * 2, 2 * (width + mlp) * 2
    assert added == layers * (attention + dense + 4)  # and a scale for each of four kernels
    trained = zip(jax.tree.leaves(run.shapes["params"]), jax.tree.leaves(run.frozen), strict=True)
    assert sum(x.size for x, cold in trained if not cold) == layers * (attention + dense)
    moments = [path for path in trees.flatten(run.shapes["optimizer"]) if "lora" in path]
    assert len(moments) == 2 * 8
    everything = trees.flatten(run.shapes["optimizer"])
    assert not [path for path in everything if path.endswith(("kernel", "bias", "embedding"))]


def flops(run):
    return count_flops(run.update, run.shapes, prepared()[1])


def test_what_is_frozen_has_no_state_and_no_backward_pass():
    whole, tower = program(), program(frozen=("vision",))
    setup, batch = prepared()
    see = lambda params, image: setup.model.apply({"params": params}, image, method="encode_image")
    forward = count_flops(see, whole.shapes["params"], batch["image"])
    # Backward costs twice forward, but for the gradient of the pixels, which nobody asks for, and
    # with that of the memory, which the decoder need not compute any more.
    saved = flops(whole) - flops(tower)
    assert 1.3 * forward < saved < 2.5 * forward
    assert not any("vision" in path for path in trees.flatten(tower.shapes["optimizer"]))
    assert flops(adapted()) < 0.85 * flops(whole)


def test_more_can_be_trained_beside_factors():
    run = adapted(trained=("decoder/.*norm.*",))
    hot = {path for path, cold in trees.flatten(run.frozen).items() if not cold}
    assert {path.split("/")[-1] for path in hot} == {"lora_a", "lora_b", "scale", "bias"}
    assert all("norm" in path for path in hot if not path.endswith(("_a", "_b")))


def test_scanned_kernels_get_factors_for_every_layer():
    params = {"layers": {"query": {"kernel": jnp.ones((3, 8, 4)), "bias": jnp.ones((3, 4))}}}
    found = lora.add(params, jax.random.key(0), rank=2, targets=["layers/query"], alpha=1)
    shapes = {path.split("/")[-1]: x.shape for path, x in trees.flatten(found).items()}
    assert shapes["lora_a"] == (3, 8, 2)
    assert shapes["lora_b"] == (3, 2, 4)
    found["layers"]["query"]["lora_b"] = jnp.ones((3, 2, 4))
    merged = lora.merge(found)["layers"]["query"]["kernel"]
    expected = 1 + 0.5 * jnp.sum(found["layers"]["query"]["lora_a"], axis=2, keepdims=True)
    np.testing.assert_allclose(merged, jnp.broadcast_to(expected, (3, 8, 4)), rtol=1e-6)
    assert lora.merge(params) is params


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 4, "targets": ["a"]}, "rank=4 does not lie between 1 and 3, as 'a/kernel'"),
        ({"rank": 0, "targets": ["a"]}, "rank=0 does not lie"),
        ({"rank": 1, "targets": ["conv"]}, "'conv' selects no dense layer, only 'conv/kernel'"),
        ({"rank": 1, "targets": ["b"]}, "'b' selects no parameter"),
    ],
)
def test_errors(options, message):
    params = {"a": {"kernel": jnp.ones((8, 4))}, "conv": {"kernel": jnp.ones((3, 3, 8, 4))}}
    with pytest.raises(ValueError, match=message):
        lora.add(params, jax.random.key(0), **options)
