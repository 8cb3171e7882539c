"""The vocabulary of a mapping table: which tensor of a published checkpoint is which of ours.

A rule pairs a path of ours with a name of theirs. "{}" in a name stands for the number of a layer;
such tensors are stacked along a new first axis, as `layers.transformer.Transformer` keeps them:

    Rule("text/transformer/layers/mlp/up/kernel", "text.layers.{}.fc1.weight", TRANSPOSED)

The helpers below write the rules of one module each, and know how frameworks differ: PyTorch keeps
matrices as (out, in), convolutions as (out, in, height, width).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]


class Form(NamedTuple):
    """How an array of theirs becomes one of ours, and back; both without changing a value."""

    read: Convert
    write: Convert


AS_IT_IS = Form(lambda x: x, lambda x: x)
TRANSPOSED = Form(np.transpose, np.transpose)  # linear layers: (out, in) -> (in, out)
CONVOLUTION = Form(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))

BATCHED = Form(lambda x: x[None], lambda x: x[0])  # learned tokens: ours have a batch axis


def reshaped(ours: Sequence[int], theirs: Sequence[int]) -> Form:
    """The same numbers in the same order under another shape; -1 as in NumPy."""
    return Form(lambda x: x.reshape(ours), lambda x: x.reshape(theirs))


def patches(size: int, channels: int = 3) -> Form:
    """A convolution over whole patches as the matrix of a dense layer on (row, column, channel)."""

    def read(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)

    return Form(read, write)


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs, and where its contents go.

    ours: paths below params ("batch_stats/..." names another collection); several where their one
    tensor holds ours side by side along its `axis`, in equal parts, or in parts of `sizes`. theirs:
    its name, with "{}" for a layer's number. form: applied to each part. layers: the numbers that
    "{}" stands for, in the order of our first axis; None for 0, 1, 2, ...
    """

    ours: str | tuple[str, ...]
    theirs: str
    form: Form = AS_IT_IS
    layers: tuple[int, ...] | None = None
    axis: int = 0
    sizes: tuple[int, ...] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Our paths."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def stacked(self) -> bool:
        """Whether ours has one row per layer."""
        return "{}" in self.theirs


Rules = list[Rule]


def dense(ours: str, theirs: str, bias: bool = True, form: Form = TRANSPOSED) -> Rules:
    """A linear layer: weight and, unless told otherwise, bias."""
    rules = [Rule(f"{ours}/kernel", f"{theirs}.weight", form)]
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias")] if bias else rules


def norm(ours: str, theirs: str, bias: bool = True, kind: str = "") -> Rules:
    """A normalisation's scale and bias. kind "rms" or "rms_offset": there is no bias."""
    rules = [Rule(f"{ours}/scale", f"{theirs}.weight")]
    biased = bias and not kind.startswith("rms")
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias")] if biased else rules


def batch_norm(ours: str, theirs: str) -> Rules:
    """A batch normalisation with its running statistics."""
    pairs = [("mean", "running_mean"), ("var", "running_var")]
    statistics = [Rule(f"batch_stats/{ours}/{a}", f"{theirs}.{b}") for a, b in pairs]
    return norm(ours, theirs) + statistics


def convolution(ours: str, theirs: str, bias: bool = False) -> Rules:
    """A two-dimensional convolution."""
    return dense(ours, theirs, bias, CONVOLUTION)


def attention(
    ours: str,
    theirs: str,
    names: Sequence[str] = ("q_proj", "k_proj", "v_proj", "out_proj"),
    bias: bool = True,
    out_bias: bool | None = None,
    form: Form = TRANSPOSED,
) -> Rules:
    """Attention with separate query, key, value and output layers, called `names` by them."""
    biases = (bias, bias, bias, bias if out_bias is None else out_bias)
    places = ("query", "key", "value", "out")
    each = zip(places, names, biases, strict=True)
    return [r for a, b, biased in each for r in dense(f"{ours}/{a}", f"{theirs}.{b}", biased, form)]


def fused_attention(
    ours: str,
    weight: str,
    bias: str | None,
    out: str,
    form: Form = TRANSPOSED,
    axis: int = 0,
    sizes: tuple[int, ...] | None = None,
) -> Rules:
    """Attention whose query, key and value layers are one tensor of theirs, in this order.

    weight, bias: full names of the fused tensors (bias None: there is none); out: the name, without
    ".weight", of the output layer. axis: along which they lie side by side (1 for GPT-2's
    (in, out) matrices).
    """
    kernels = tuple(f"{ours}/{name}/kernel" for name in ("query", "key", "value"))
    rules = [Rule(kernels, weight, form, axis=axis, sizes=sizes)]
    if bias is not None:
        biases = tuple(f"{ours}/{name}/bias" for name in ("query", "key", "value"))
        rules.append(Rule(biases, bias, sizes=sizes))
    return rules + dense(f"{ours}/out", out, bias is not None, form)


def for_layers(rules: Iterable[Rule], layers: Sequence[int]) -> Rules:
    """The same rules where only these layers of theirs are meant, in this order."""
    return [replace(rule, layers=tuple(layers)) if rule.stacked else rule for rule in rules]


def for_groups(
    usual: Callable[[str], Rules],
    cross: Callable[[str], Rules],
    ours: str,
    layers: int,
    every: int,
    counted: bool = False,
) -> Rules:
    """A stack of which one layer in `every`, from the first on, has cross parts.

    usual, cross: from the path of a layer of ours to the rules of all its parts but the cross
    parts, and to theirs. layers: of the stack. counted: the cross parts are numbered by themselves,
    not by their layers.
    """
    if every == 1:
        return [*usual(f"{ours}/layers"), *cross(f"{ours}/layers")]
    groups, rest = divmod(layers, every)
    table: Rules = []
    for i in range(every if groups else 0):
        numbers = range(i, groups * every, every)
        table += for_layers(usual(f"{ours}/groups/block_{i}"), numbers)
        if i == 0:
            numbers = range(groups) if counted else numbers
            table += for_layers(cross(f"{ours}/groups/block_0"), numbers)
    for i in range(rest):
        table += for_layer(usual(f"{ours}/rest/block_{i}"), groups * every + i)
        if i == 0:
            number = groups if counted else groups * every
            table += for_layer(cross(f"{ours}/rest/block_0"), number)
    return table


def for_layer(rules: Iterable[Rule], layer: int) -> Rules:
    """The same rules for one layer that ours does not stack."""
    return [replace(rule, theirs=rule.theirs.replace("{}", str(layer))) for rule in rules]
