"""Optimizers, learning-rate schedules and weight averages, from config dictionaries.

    schedule = make_schedule(config.schedule, total_steps=..., batch_size=...)
    optimizer = make_optimizer(config.optimizer, schedule, params)

Gradient accumulation is not here: the train step scans over micro-batches and hands over one
averaged gradient, so that the step count, the schedule and the optimizer state never see
micro-batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlm_jax import lora, trees
from vlm_jax.compact import compact
from vlm_jax.kwargs import Config, Number, check_keys, keywords, lookup

Schedule = Callable[[Any], Any]
"""Step (i32 scalar, counted from 0) to the factor in [0, 1] that multiplies the learning rate."""

UNITS = {
    "steps": (),
    "examples": ("batch_size",),
    "epochs": ("batch_size", "examples_per_epoch"),
    "percent": ("total_steps",),
}
"""Units of durations, and what one has to know to turn them into steps."""

DECAYED = r"(.*/)?[^/]*(kernel|embedding)"
"""Parameters that decay unless a config says otherwise; of these, only the ones of rank 2 or
more."""


# --- durations ------------------------------------------------------------------------------------
def to_steps(
    config: Config,
    key: str,
    *,
    batch_size: int | None = None,
    examples_per_epoch: int | None = None,
    total_steps: int | None = None,
    default: int | None = None,
) -> int:
    """The duration `<key>_steps`, `<key>_examples`, `<key>_epochs` or `<key>_percent` of `config`,
    in optimizer steps.

    Rounded to the nearest step, and up to 1 if it is above 0. percent, in [0, 100], refers to
    total_steps. default: what an absent duration means; None makes it required. ValueError if there
    are several, none, or a negative or not finite one; also if the batch size, epoch length or
    total it needs is unknown here.
    """
    found = [unit for unit in UNITS if dict(config).get(f"{key}_{unit}") is not None]
    names = ", ".join(f"{key}_{unit}" for unit in UNITS)
    if len(found) > 1:
        raise ValueError(f"give only one of {', '.join(f'{key}_{unit}' for unit in found)}")
    if not found:
        if default is None:
            raise ValueError(f"give one of {names}")
        return default
    unit, value = found[0], float(config[f"{key}_{found[0]}"])
    if not math.isfinite(value) or value < 0 or (unit == "percent" and value > 100):
        raise ValueError(f"{key}_{unit} is {value:g}, which is no duration")
    known = {
        "batch_size": batch_size or 0,
        "examples_per_epoch": examples_per_epoch or 0,
        "total_steps": total_steps or 0,
    }
    unknown = [name for name in UNITS[unit] if not known[name]]
    if unknown:
        lacking = " and ".join(unknown)
        raise ValueError(f"{key}_{unit} needs {lacking}, unknown here: give {key}_steps")
    if unit == "percent":
        value *= known["total_steps"] / 100
    if unit == "epochs":
        value *= known["examples_per_epoch"]
    if unit in ("epochs", "examples"):
        value /= known["batch_size"]
    return max(round(value), 1) if value else 0


# --- schedules ------------------------------------------------------------------------------------
def constant(step: Any, steps: int) -> Any:
    """1 throughout."""
    return jnp.ones_like(step, jnp.float32)


def linear(step: Any, steps: int, *, end: Number = 0.0) -> Any:
    """From 1 to `end`, in a straight line over `steps`; `end` afterwards."""
    return end + (1 - end) * (1 - jnp.clip(step / max(steps, 1), 0, 1))


def cosine(step: Any, steps: int, *, end: Number = 0.0) -> Any:
    """From 1 to `end` along half a cosine over `steps`; `end` afterwards. SGDR (arXiv:1608.03983),
    equation 5.
    """
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / max(steps, 1), 0, 1)))


def rsqrt(step: Any, steps: int, *, timescale: Number = 10_000) -> Any:
    """sqrt(timescale / (timescale + step)): no end needs to be known. Scaling ViT
    (arXiv:2106.04560), section 3.5.
    """
    return jnp.sqrt(timescale / (timescale + step))


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "rsqrt": rsqrt}


def make_schedule(
    config: Config,
    *,
    total_steps: int,
    batch_size: int | None = None,
    examples_per_epoch: int | None = None,
    where: str = "config.schedule",
) -> Schedule:
    """A schedule by name, with a linear warm-up before it and a linear cool-down to 0 at its end.

    config: `name` (a key of SCHEDULES), the keywords of that schedule, and the optional durations
    `warmup_*` and `cooldown_*` (see `to_steps`). Step s of a warm-up of W steps has factor (s + 1)
    / W, so that no step is wasted on a learning rate of 0. TypeError for an unknown key; ValueError
    if both durations exceed total_steps.
    """
    given = dict(config)
    name = given.pop("name", "constant")
    shape = lookup(SCHEDULES, name, f"{where}.name")
    durations = [f"{key}_{unit}" for key in ("warmup", "cooldown") for unit in UNITS]
    own = [key for key in keywords(shape) if key not in ("step", "steps")]
    check_keys(given, [*own, *durations, "name"], where)
    known = {
        "batch_size": batch_size,
        "examples_per_epoch": examples_per_epoch,
        "total_steps": total_steps,
    }
    warmup = to_steps(given, "warmup", default=0, **known)
    cooldown = to_steps(given, "cooldown", default=0, **known)
    if warmup + cooldown > total_steps:
        raise ValueError(
            f"{where}: a warm-up of {warmup} and a cool-down of {cooldown} steps exceed the "
            f"{total_steps} steps of training"
        )
    options = {key: given[key] for key in own if key in given}

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum((step + 1) / max(warmup, 1), 1)
        fall = jnp.clip((total_steps - step) / max(cooldown, 1), 0, 1) if cooldown else 1.0
        return rise * fall * shape(jnp.maximum(step - warmup, 0), total_steps - warmup, **options)

    return schedule


# --- update rules: `decay` adds weight_decay * parameter to the update, at the place where the rule
def sgd(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Plain gradient descent."""
    return decay


def momentum(
    decay, *, momentum: Number = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Gradient descent with momentum; weight decay is part of the gradient, as in the ResNet recipe
    (arXiv:1512.03385).
    """
    return optax.chain(decay, optax.trace(momentum, nesterov))


def rmsprop(
    decay, *, decay_rate: Number = 0.9, eps: Number = 1e-8, momentum: Number = 0.0
) -> optax.GradientTransformation:
    """Gradient over the root of its mean square (Tieleman and Hinton 2012); weight decay is part of
    the gradient.
    """
    return optax.chain(decay, optax.scale_by_rms(decay_rate, eps), _trace(momentum))


def adam(
    decay, *, betas: Sequence[Number] = (0.9, 0.999), eps: Number = 1e-8
) -> optax.GradientTransformation:
    """Adam (arXiv:1412.6980); weight decay is part of the gradient."""
    return optax.chain(decay, optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps))


def adamw(
    decay, *, betas: Sequence[Number] = (0.9, 0.999), eps: Number = 1e-8
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv:1711.05101), multiplied by the learning rate."""
    return optax.chain(optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps), decay)


def lion(decay, *, betas: Sequence[Number] = (0.9, 0.99)) -> optax.GradientTransformation:
    """Sign of interpolated momentum, decoupled weight decay. Lion (arXiv:2302.06675), algorithm
    2.
    """
    return optax.chain(optax.scale_by_lion(b1=betas[0], b2=betas[1]), decay)


def lamb(
    decay, *, betas: Sequence[Number] = (0.9, 0.999), eps: Number = 1e-6
) -> optax.GradientTransformation:
    """Adam whose update is rescaled to the norm of each parameter. LAMB (arXiv:1904.00962),
    algorithm 2.
    """
    return optax.chain(
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps), decay, optax.scale_by_trust_ratio()
    )


def adafactor(
    decay,
    *,
    momentum: Number = 0.0,
    decay_rate: Number = 0.8,
    clip_threshold: Number = 1.0,
    min_factored: int = 128,
    eps: Number = 1e-30,
) -> optax.GradientTransformation:
    """Second moments factored over dimensions of at least `min_factored`. Adafactor
    (arXiv:1804.04235), algorithm 4.

    Without the multiplication by the parameter's scale and with decoupled weight decay, as in
    arXiv:2106.04560.
    """
    return optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=decay_rate, min_dim_size_to_factor=min_factored, epsilon=eps
        ),
        optax.clip_by_block_rms(clip_threshold),
        _trace(momentum),
        decay,
    )


def _trace(decay_rate: Number) -> optax.GradientTransformation:
    """Momentum that stores nothing when it is off."""
    return optax.trace(decay_rate) if decay_rate else optax.identity()


OPTIMIZERS = {
    "adafactor": adafactor,
    "adam": adam,
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "momentum": momentum,
    "rmsprop": rmsprop,
    "sgd": sgd,
}


# --- the optimizer --------------------------------------------------------------------------------
def make_optimizer(
    config: Config,
    schedule: Schedule,
    params: trees.Tree,
    where: str = "config.optimizer",
) -> optax.GradientTransformation:
    """The optimizer of a config: the keywords of `assemble` and of the rule that `name` chooses, in
    one dictionary.

    TypeError for an unknown key or a missing learning_rate; ValueError as in `assemble`.
    """
    given = dict(config)
    name = given.pop("name", "adamw")
    rule = lookup(OPTIMIZERS, name, f"{where}.name")
    own = [key for key in keywords(rule) if key != "decay"]
    common = [
        key for key in keywords(assemble) if key not in ("params", "schedule", "rule", "where")
    ]
    check_keys(given, ["name", *common, *own], f"{where} (name={name!r})")
    if "learning_rate" not in given:
        raise TypeError(f"{where} lacks the required key 'learning_rate'")
    options = {key: given.pop(key) for key in own if key in given}
    return assemble(params, schedule, lambda decay: rule(decay, **options), where, **given)


def assemble(
    params: trees.Tree,
    schedule: Schedule,
    rule: Callable,
    where: str = "optimizer",
    *,
    learning_rate: Number,
    weight_decay: Number = 0.0,
    decay_mask: Sequence[str] | None = None,
    clip_norm: Number | None = None,
    frozen: Sequence[str] = (),
    multipliers: Config = (),
    lora: Config = None,
    state_dtype: str | None = None,
) -> optax.GradientTransformation:
    """Clipping, update rule with weight decay, multipliers, learning rate; nothing at all for
    frozen parameters.

    params: tree of arrays or shapes. learning_rate: peak, multiplied by `schedule`. weight_decay: 0
    or more, on the parameters selected by `decay_mask` (default: kernels and embeddings of rank 2
    or more, never biases, norms or scales). clip_norm: largest global norm of the gradient of the
    trained parameters; None does not clip. frozen, lora: see `frozen_parameters`; what is frozen
    gets no update and no optimizer state. state_dtype: of big moments, see vlm_jax.compact.
    multipliers: pattern to learning-rate factor, as a mapping or as pairs; several matching factors
    multiply. Patterns are those of `trees`. ValueError for a pattern that selects nothing, and if
    every parameter is frozen.
    """
    flat = trees.flatten(params)
    checked = {"learning_rate": learning_rate, "weight_decay": weight_decay, "clip_norm": clip_norm}
    for key, value in checked.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{where}.{key} is {value}: it must be 0 or more")
    decayed = _decayed(flat, decay_mask, f"{where}.decay_mask")
    factors = _factors(flat, dict(multipliers), f"{where}.multipliers")
    in_mask = lambda tree: trees.map_with_path(lambda path, _: path in decayed, tree)
    rescale = lambda updates, _: trees.map_with_path(lambda path, u: u * factors[path], updates)
    decay = optax.add_decayed_weights(weight_decay, in_mask) if weight_decay else optax.identity()
    trained = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        compact(rule(decay), state_dtype) if state_dtype else rule(decay),
        optax.stateless(rescale) if multipliers else optax.identity(),
        optax.scale_by_schedule(lambda step: -learning_rate * schedule(step)),
    )
    is_frozen = frozen_parameters({"frozen": frozen, "lora": lora}, params, where)
    if not any(jax.tree.leaves(is_frozen)):
        return trained
    labels = jax.tree.map(lambda cold: "frozen" if cold else "trained", is_frozen)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def frozen_parameters(config: Config, params: trees.Tree, where: str = "optimizer") -> trees.Tree:
    """A tree of bools: True for what is not trained.

    config: frozen, patterns of such parameters, and lora.trained, patterns of what is trained
    beside low-rank factors, where there are some. ValueError for a pattern that selects nothing,
    and if nothing is left to train.
    """
    cold = trees.match(config.get("frozen") or (), params, f"{where}.frozen")
    if lora.is_adapted(params):
        more = dict(config.get("lora") or {}).get("trained", ())
        hot = trees.match((lora.FACTORS, *more), params, f"{where}.lora.trained")
        scales = trees.match((rf".*/{lora.SCALE}",), params)
        cold = jax.tree.map(lambda a, b, c: a or not b or c, cold, hot, scales)
    if all(jax.tree.leaves(cold)):
        raise ValueError(f"{where}.frozen selects every parameter: nothing is left to train")
    return cold


def _decayed(flat: Mapping[str, Any], patterns: Sequence[str] | None, where: str) -> set[str]:
    """Paths that weight decay applies to."""
    if patterns is not None:
        return {path for pattern in patterns for path in trees.select(pattern, flat, where)}
    default = trees.compile_pattern(DECAYED)
    return {path for path, leaf in flat.items() if len(leaf.shape) >= 2 and default.fullmatch(path)}


def _factors(
    flat: Mapping[str, Any], multipliers: Mapping[str, Number], where: str
) -> dict[str, Number]:
    """Learning-rate factor of every path."""
    factors: dict[str, Number] = dict.fromkeys(flat, 1.0)
    for pattern, factor in multipliers.items():
        for path in trees.select(pattern, flat, where):
            factors[path] *= factor
    return factors


def ema_update(ema: trees.Tree, params: trees.Tree, decay: Number, step: Any = None) -> trees.Tree:
    """The average decay * ema + (1 - decay) * params, in f32, at every floating leaf; other leaves
    are copied from `params`.

    decay: in [0, 1). step: updates made so far (i32 scalar); if given, decay is at most (1 + step)
    / (10 + step), so that a young average forgets its random start. None applies the full decay
    from the beginning.
    """
    rate = jnp.float32(decay) if step is None else jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def average(old, new):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        old32, new32 = old.astype(jnp.float32), new.astype(jnp.float32)
        return (new32 + rate * (old32 - new32)).astype(old.dtype)

    return jax.tree.map(average, ema, params)
