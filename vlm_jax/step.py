"""One optimizer step as a pure function, and the state it maps to the next.

(state, batch) -> (state, losses)
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlm_jax import checkpoint, kwargs, lora, optim, trees
from vlm_jax.experiment import Experiment
from vlm_jax.types import Batch
from vlm_jax.weights import adopt

State = dict[str, Any]
"""step: i32, steps done. key: PRNG key. params, batch_stats, optimizer, and ema if the run keeps
averages: trees. bad_step: i32, the first step whose loss or gradient was not finite, -1 if none.
"""

Losses = dict[str, jax.Array]
"""f32 scalars: "loss" (weighted sum), "loss/TASK" where there are several, "gradient_norm"."""


def initial_state(setup: Experiment, example: Batch, seed: int) -> State:
    """A fresh state without optimizer. example: a batch of any size; only its shapes matter."""
    key = jax.random.key(seed)
    init_key, train_key = jax.random.split(key)
    inputs = one_row_per_text(setup, jax.tree.map(jnp.asarray, example))
    variables = setup.model.init({"params": init_key, "dropout": init_key}, inputs, setup.asks)
    return {
        "step": jnp.int32(0),
        "key": train_key,
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
        "bad_step": jnp.int32(-1),
    }


def one_row_per_text(setup: Experiment, batch: Batch) -> Batch:
    """The batch with the inputs [B, N, ...] of tasks with per_image = N > 1 as [B * N, ...]."""
    join = lambda x: x.reshape(-1, *x.shape[2:])
    several = {name: batch[name] for name, count in setup.per_image.items() if count > 1}
    return {**batch, **jax.tree.map(join, several)}


def variables_of(state: State) -> dict[str, Any]:
    """What the model is applied with in evaluation: averaged parameters if the run keeps them, and
    low-rank factors merged into their kernels.
    """
    variables = {"params": lora.merge(state.get("ema", state["params"]))}
    return variables | ({"batch_stats": state["batch_stats"]} if state["batch_stats"] else {})


def make_update(
    setup: Experiment,
    optimizer: optax.GradientTransformation,
    frozen: trees.Tree,
    accumulate: int = 1,
    ema_decay: float | None = None,
    cast: Callable[[trees.Tree], trees.Tree] = lambda params: params,
    fetch: Callable[[trees.Tree], trees.Tree] = lambda memory: memory,
) -> Callable[[State, Batch], tuple[State, Losses]]:
    """The function (state, batch) -> (state, losses): one optimizer step, compiled by the caller.

    frozen: bools like the parameters; True needs no gradient. accumulate: micro-batches per step;
    their gradients are averaged, and a contrastive loss sees the negatives of its own only. cast:
    what the model gets for its parameters (see sharding.cast_for_gathering). fetch: brings the
    optimizer's state to where it can be computed with (see sharding.fetch).
    """
    gradients = _accumulated(_gradients(_make_loss(setup, cast), frozen), accumulate)

    def update(state: State, batch: Batch) -> tuple[State, Losses]:
        key = jax.random.fold_in(state["key"], state["step"])
        grads, (losses, statistics) = gradients(state["params"], state["batch_stats"], batch, key)
        losses["gradient_norm"] = optax.tree.norm(grads)
        complete = lambda path, x: grads[path] if path in grads else jnp.zeros_like(x)
        grads_of_all = trees.map_with_path(complete, state["params"])
        memory = fetch(state["optimizer"])
        updates, memory = optimizer.update(grads_of_all, memory, state["params"])
        params = jax.tree.map(
            lambda cold, old, new: old if cold else new,
            frozen,
            state["params"],
            optax.apply_updates(state["params"], updates),
        )
        bad = (state["bad_step"] < 0) & ~jnp.isfinite(losses["loss"] + losses["gradient_norm"])
        new = state | {
            "step": state["step"] + 1,
            "params": params,
            "batch_stats": statistics,
            "optimizer": memory,
            "bad_step": jnp.where(bad, state["step"] + 1, state["bad_step"]),
        }
        if ema_decay is not None:
            new["ema"] = optim.ema_update(state["ema"], params, ema_decay, state["step"])
        return new, losses

    return update


def _gradients(loss: Callable, frozen: trees.Tree) -> Callable:
    """(params, *inputs) -> (path to the gradient of each trained parameter, what else loss has).

    Others are no arguments of what is differentiated: they get no gradient, not even zeros.
    """
    cold = trees.flatten(frozen)

    def gradients(params: trees.Tree, *inputs: Any):
        def of_trained(trained: Mapping[str, jax.Array]):
            chosen = trees.map_with_path(lambda path, x: trained.get(path, x), params)
            return loss(chosen, *inputs)

        trained = {path: x for path, x in trees.flatten(params).items() if not cold[path]}
        return jax.grad(of_trained, has_aux=True)(trained)

    return gradients


def _make_loss(setup: Experiment, cast: Callable) -> Callable:
    """(params, statistics, batch, key) -> (total loss, (losses, new statistics))."""

    def loss(params: trees.Tree, statistics: trees.Tree, batch: Batch, key: jax.Array):
        variables = {"params": cast(params)} | ({"batch_stats": statistics} if statistics else {})
        batch = one_row_per_text(setup, batch)
        outputs, changed = setup.model.apply(
            variables, batch, setup.asks, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        losses = {
            name: jnp.mean(task.loss(outputs[name], batch[name]).astype(jnp.float32))
            for name, task in setup.tasks.items()
        }
        total = sum(setup.weights[name] * loss for name, loss in losses.items())
        named = {f"loss/{name}": loss for name, loss in losses.items()} if len(losses) > 1 else {}
        return total, ({"loss": total, **named}, changed.get("batch_stats", statistics))

    return loss


def _accumulated(gradient_of: Callable, micro_batches: int) -> Callable:
    """The same function of (params, statistics, batch, key), computed in parts and averaged; one
    sum of gradients is held, not those of every part.
    """
    if micro_batches == 1:
        return gradient_of

    def gradients(params: trees.Tree, statistics: trees.Tree, batch: Batch, key: jax.Array):
        # Row i goes to micro-batch i mod n: every device keeps its own rows.
        split = lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1)

        def micro(done: tuple[Any, trees.Tree], inputs: tuple[Batch, jax.Array]):
            sums, statistics = done
            part, (losses, statistics) = gradient_of(params, statistics, *inputs)
            return (jax.tree.map(jnp.add, sums, (part, losses)), statistics), None

        inputs = (jax.tree.map(split, batch), jax.random.split(key, micro_batches))
        first = jax.tree.map(lambda x: x[0], inputs)
        part, (losses, _) = jax.eval_shape(gradient_of, params, statistics, *first)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (part, losses))
        (sums, statistics), _ = jax.lax.scan(micro, (sums, statistics), inputs)
        part, losses = jax.tree.map(lambda x: x / micro_batches, sums)
        return part, (losses, statistics)

    return gradients


def start_from(state: State, init: str | Mapping[str, Any]) -> State:
    """The state with the parameters (and batch statistics) of another run.

    init: a workdir or a published checkpoint folder, or {"workdir": ..., "rename": [(pattern,
    replacement)], "skip": [pattern], "optional": [pattern], "entry": "params" | "ema"}. skip:
    parameters that stay as they are, or loaded ones that are not wanted. optional: those that are
    taken over only where they are there, and fit. Instead of a workdir, "parts" may name a
    published folder for each of some parts of the model: {"vision": ..., "decoder": ...}; the
    others stay as they are. ValueError listing everything that does not fit; FileNotFoundError if
    there is no checkpoint.
    """
    given: dict[str, Any] = {"workdir": init} if isinstance(init, str) else dict(init)
    known = ("workdir", "parts", "rename", "skip", "optional", "entry")
    kwargs.check_keys(given, known, "config.init")
    others = []
    if "parts" in given:
        load = partial(adopt.parts, given["parts"])
        others = [re.escape(part) for part in state["params"] if part not in given["parts"]]
    elif adopt.is_published(given):
        load = lambda entry: adopt.parameters(given, "params" if entry == "ema" else entry)
    else:
        load = partial(checkpoint.load_params, given["workdir"])
    # Factors of a run before are part of what this one starts from, which has factors of its own.
    loaded = trees.flatten(lora.merge(trees.unflatten(load(given.get("entry", "params")))))
    others += [lora.ADDED] * lora.is_adapted(state["params"])
    patterns = {"rename": given.get("rename", ()), "skip": (*given.get("skip", ()), *others)}
    patterns["optional"] = given.get("optional", ())
    state = state | {"params": trees.merge(state["params"], loaded, **patterns)}
    if state["batch_stats"]:
        statistics = load("batch_stats")
        matching = lambda pair: any(trees.compile_pattern(pair[0]).match(x) for x in statistics)
        rename = [pair for pair in patterns["rename"] if matching(pair)]
        state["batch_stats"] = trees.merge(state["batch_stats"], statistics, rename=rename)
    if "ema" in state:
        state["ema"] = jax.tree.map(jnp.copy, state["params"])
    return state
