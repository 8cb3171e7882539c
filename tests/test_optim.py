import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vlm_jax import trees
from vlm_jax.optim import (
    OPTIMIZERS,
    ema_update,
    frozen_parameters,
    make_optimizer,
    make_schedule,
    to_steps,
)

KNOWN = {"batch_size": 32, "examples_per_epoch": 320, "total_steps": 1000}


def always(step):
    return 1.0


def parameters():
    return {
        "vision": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)},
        "text": {"embedding": jnp.full((4, 2), 2.0), "norm": {"scale": jnp.full((2, 5), 2.0)}},
    }


def one_update(config, params, gradients):
    optimizer = make_optimizer(config, always, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return trees.flatten(updates)


# --- durations ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"warmup_steps": 7}, 7),
        ({"warmup_examples": 96}, 3),
        ({"warmup_epochs": 1.5}, 15),
        ({"warmup_percent": 2.5}, 25),
        ({"warmup_examples": 1}, 1),
        ({"warmup_steps": 0}, 0),
        (ConfigDict({"warmup_epochs": 2, "warmup_steps": None}), 20),
    ],
)
def test_to_steps(config, steps):
    assert to_steps(config, "warmup", **KNOWN) == steps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "give one of warmup_steps, warmup_examples, warmup_epochs, warmup_percent"),
        ({"warmup_steps": 1, "warmup_epochs": 1}, "only one of warmup_steps, warmup_epochs"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmup_percent": 101}, "warmup_percent is 101"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs is nan"),
    ],
)
def test_to_steps_errors(config, message):
    with pytest.raises(ValueError, match=message):
        to_steps(config, "warmup", **KNOWN)


def test_to_steps_says_what_it_lacks():
    with pytest.raises(ValueError, match="total_epochs needs examples_per_epoch, unknown here"):
        to_steps({"total_epochs": 2}, "total", batch_size=8)


# --- schedules ------------------------------------------------------------------------------------
def curve(config, steps, total_steps=100):
    schedule = make_schedule(config, total_steps=total_steps, batch_size=10)
    return np.array([schedule(step) for step in steps])


def test_warmup_rises_linearly_and_wastes_no_step():
    np.testing.assert_allclose(
        curve({"name": "constant", "warmup_steps": 4}, range(6)), [0.25, 0.5, 0.75, 1, 1, 1]
    )


def test_cosine_golden():
    config = {"name": "cosine", "warmup_percent": 20, "end": 0.1}
    expected = [0.05, 1, 0.1 + 0.9 * (1 + 2**-0.5) / 2, 0.55, 0.1]
    np.testing.assert_allclose(curve(config, [0, 20, 40, 60, 100]), expected, rtol=1e-6)


def test_linear_and_rsqrt_golden():
    np.testing.assert_allclose(curve({"name": "linear"}, [0, 25, 100]), [1, 0.75, 0], atol=1e-7)
    rsqrt = {"name": "rsqrt", "timescale": 300, "warmup_examples": 100, "cooldown_steps": 10}
    np.testing.assert_allclose(
        curve(rsqrt, [10, 85, 95, 100]), [1, 0.8**0.5, (300 / 385) ** 0.5 / 2, 0], rtol=1e-6
    )


def test_schedule_works_under_jit_with_integer_steps():
    schedule = make_schedule({"name": "cosine"}, total_steps=10)
    assert jax.jit(schedule)(jnp.int32(5)) == pytest.approx(0.5)


def test_schedule_errors():
    with pytest.raises(
        TypeError, match=r"'warmup_step' in config.schedule; did you mean 'warmup_st"
    ):
        make_schedule({"name": "cosine", "warmup_step": 5}, total_steps=10)
    with pytest.raises(ValueError, match="'cosin'; did you mean 'cosine'"):
        make_schedule({"name": "cosin"}, total_steps=10)
    with pytest.raises(ValueError, match="exceed the 10 steps"):
        make_schedule({"name": "cosine", "warmup_steps": 11}, total_steps=10)
    with pytest.raises(TypeError, match="unknown key 'end'"):
        make_schedule({"name": "rsqrt", "end": 0.1}, total_steps=10)


# --- optimizers -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises_a_quadratic(name):
    params = {"layer": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])}}
    loss = lambda p: jnp.sum(jnp.square(p["layer"]["kernel"]))
    config = {"name": name, "learning_rate": 0.02, "weight_decay": 1e-3, "clip_norm": 10.0}
    optimizer = make_optimizer(config, always, params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    start, state = loss(params), optimizer.init(params)
    for _ in range(100):
        params, state = step(params, state)
    assert loss(params) < 0.5 * start


def test_adamw_first_step_golden():
    gradients = jax.tree.map(lambda x: -3 * jnp.ones_like(x), parameters())
    config = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.01, "betas": (0.8, 0.9)}
    updates = one_update(config, parameters(), gradients)
    # The bias-corrected first step of Adam is the sign of the gradient; only kernels decay.
    np.testing.assert_allclose(updates["vision/bias"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["text/norm/scale"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["vision/kernel"], 0.1 - 0.1 * 0.01 * 2, rtol=1e-5)
    np.testing.assert_allclose(updates["text/embedding"], 0.1 - 0.1 * 0.01 * 2, rtol=1e-5)


def test_momentum_follows_the_coupled_recurrence():
    params = {"kernel": jnp.full((1, 1), 1.0)}
    config = {"name": "momentum", "learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.9}
    optimizer = make_optimizer(config, always, params)
    state, w, v = optimizer.init(params), 1.0, 0.0
    for gradient in (1.0, -2.0, 0.5):
        updates, state = optimizer.update({"kernel": jnp.full((1, 1), gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        v = 0.9 * v + gradient + 0.5 * w
        w = w - 0.1 * v
        assert params["kernel"][0, 0] == pytest.approx(w, rel=1e-6)


def test_decay_mask_by_pattern():
    config = {"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.5, "decay_mask": ["vision"]}
    updates = one_update(config, parameters(), jax.tree.map(jnp.zeros_like, parameters()))
    decayed = {path for path, update in updates.items() if np.any(update != 0)}
    assert decayed == {"vision/kernel", "vision/bias"}


def test_frozen_parameters_have_no_update_no_state_and_no_part_in_the_norm():
    params = parameters()
    config = {"learning_rate": 0.1, "frozen": ["text"], "weight_decay": 0.1}
    optimizer = make_optimizer(config, always, params)
    state = optimizer.init(params)
    assert not [path for path in trees.flatten(state) if "text" in path]
    assert len([path for path in trees.flatten(state) if path.endswith("vision/kernel")]) == 2
    gradients = jax.tree.map(jnp.ones_like, params)
    updates = trees.flatten(optimizer.update(gradients, state, params)[0])
    assert not np.any(updates["text/embedding"])
    assert not np.any(updates["text/norm/scale"])
    assert np.all(updates["vision/kernel"] < 0)
    clipped = one_update(
        {"name": "sgd", "learning_rate": 1.0, "clip_norm": 1.0, "frozen": ["text"]},
        params,
        gradients,
    )
    np.testing.assert_allclose(clipped["vision/bias"], -1 / 3, rtol=1e-6)  # 9 trained values


def test_multipliers_multiply():
    config = {
        "name": "sgd",
        "learning_rate": 1.0,
        "multipliers": [["vision", 0.5], (".*/bias", 0.1)],
    }
    updates = one_update(config, parameters(), jax.tree.map(jnp.ones_like, parameters()))
    got = {path: -float(update.ravel()[0]) for path, update in updates.items()}
    assert got == pytest.approx(
        {"vision/kernel": 0.5, "vision/bias": 0.05, "text/embedding": 1, "text/norm/scale": 1}
    )


def test_the_schedule_scales_the_update():
    params = parameters()
    optimizer = make_optimizer(
        {"name": "sgd", "learning_rate": 2.0}, lambda step: 1.0 / (1.0 + step), params
    )
    state, seen = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        seen.append(float(updates["vision"]["bias"][0]))
    assert seen == pytest.approx([-2, -1, -2 / 3])


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            {"learning_rat": 1},
            TypeError,
            "'learning_rat' in config.optimizer .*did you mean 'learni",
        ),
        ({"name": "sgd", "learning_rate": 1, "betas": (0, 1)}, TypeError, "unknown key 'betas'"),
        ({"name": "adamv", "learning_rate": 1}, ValueError, "did you mean 'adam"),
        ({"name": "sgd"}, TypeError, "lacks the required key 'learning_rate'"),
        ({"learning_rate": -1}, ValueError, "learning_rate is -1"),
        ({"learning_rate": 1, "frozen": ["visoin"]}, ValueError, "optimizer.frozen: .*: vision"),
        ({"learning_rate": 1, "frozen": [".*"]}, ValueError, "selects every parameter"),
        ({"learning_rate": 1, "multipliers": [("head", 2)]}, ValueError, "optimizer.multipliers"),
        ({"learning_rate": 1, "decay_mask": ["head"]}, ValueError, "optimizer.decay_mask"),
        ({"learning_rate": 1, "state_dtype": "int8"}, ValueError, "config.optimizer.state_dtype"),
    ],
)
def test_optimizer_errors(config, error, message):
    with pytest.raises(error, match=message):
        make_optimizer(config, always, parameters())


def test_states_may_have_fewer_bits():
    params = {"layer": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}}
    config = {"name": "lion", "learning_rate": 1.0, "state_dtype": "bfloat16"}
    optimizer = make_optimizer(config, always, params)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    dtypes = {path.split("/")[-1]: str(x.dtype) for path, x in trees.flatten(state).items()}
    assert dtypes["kernel"] == "bfloat16"
    assert dtypes["bias"] == "float32"
    np.testing.assert_array_equal(updates["layer"]["kernel"], -1.0)


def test_beside_factors_only_what_is_named_is_trained():
    leaf = jnp.ones((2, 2))
    layer = {"kernel": leaf, "lora_a": leaf, "lora_b": leaf, "lora_scale": jnp.ones(())}
    params = {"text": {"query": layer, "norm": {"scale": leaf}}, "head": {"kernel": leaf}}
    hot = lambda config: {
        path for path, cold in trees.flatten(frozen_parameters(config, params)).items() if not cold
    }
    assert hot({}) == {"text/query/lora_a", "text/query/lora_b"}
    assert hot({"lora": {"trained": ["head"]}}) == {*hot({}), "head/kernel"}
    with pytest.raises(ValueError, match="nothing is left to train"):
        hot({"frozen": ["text"]})


# --- averages -------------------------------------------------------------------------------------
def test_ema_golden():
    ema, params = (
        {"w": jnp.array([1.0]), "n": jnp.int32(1)},
        {"w": jnp.array([3.0]), "n": jnp.int32(5)},
    )
    assert ema_update(ema, params, 0.75)["w"][0] == 1.5
    assert ema_update(ema, params, 0.75)["n"] == 5
    assert ema_update(ema, params, 0.99, step=jnp.int32(0))["w"][0] == pytest.approx(2.8)
    assert ema_update(ema, params, 0.5, step=10**6)["w"][0] == 2.0


def test_ema_of_equal_values_is_exact():
    x = {"w": jnp.array([0.1, 1e-30, 3e7])}
    assert jnp.array_equal(ema_update(x, x, 0.999)["w"], x["w"])
