"""The one engine that applies a mapping table: their tensors to our parameters, and back.

Parameters are made one at a time, each placed on its devices before the next is read, so that host
memory never holds the checkpoint twice.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlm_jax import trees
from vlm_jax.weights.folder import Arrays, Tensors, WeightsError
from vlm_jax.weights.rules import Rule

Place = Callable[[str, np.ndarray], Any]
"""(path, array) to what is kept: a device array, for example."""

Renames = Sequence[tuple[str, str]]
"""Pairs of a regular expression and its replacement, applied to their names in this order."""


def our_path(path: str) -> str:
    """A path of a rule as one of the variables: below params unless it names another collection."""
    return path if path.startswith("batch_stats/") else f"params/{path}"


def canonical(names: Sequence[str], renames: Renames) -> dict[str, str]:
    """The name that the table knows to the name that is stored; WeightsError if two coincide."""
    known: dict[str, str] = {}
    for name in names:
        renamed = name
        for pattern, replacement in renames:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed in known:
            raise WeightsError(f"tensors {known[renamed]} and {name} are both {renamed}")
        known[renamed] = name
    return known


def read(
    tensors: Tensors | Arrays,
    shapes: Any,
    rules: Sequence[Rule],
    *,
    renames: Renames = (),
    ignored: Sequence[str] = (),
    dtype: Any = None,
    place: Place | None = None,
) -> dict[str, Any]:
    """Our variables from their tensors.

    shapes: the variables' tree with shapes, from jax.eval_shape. ignored: regular expressions of
    whole canonical names that mean nothing here (buffers, tied copies). dtype: of floating-point
    parameters (None: as stored). place: puts an array where it belongs (None: jax.device_put).
    WeightsError listing together every missing, unexpected and misshapen tensor.
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in trees.flatten(shapes).items()}
    known = canonical(list(tensors), renames)
    table = _complete(rules, wanted)
    problems = _missing(table, wanted, known) + _unexpected(table, wanted, known, ignored)
    problems += _misshapen(table, wanted, {name: tensors.shapes[known[name]] for name in known})
    if problems:
        raise WeightsError(_report(problems))
    place = place or (lambda path, array: jax.device_put(array))
    load = lambda name: tensors[known[name]]
    flat = {}
    for path in wanted:
        array = _assemble(table[path], wanted[path], load, dtype)
        flat[path] = place(path, array)
    return trees.unflatten(flat)


def write(variables: Any, rules: Sequence[Rule]) -> Iterator[tuple[str, np.ndarray]]:
    """Their tensors, one after the other, from our variables. WeightsError if some variable has no
    rule.
    """
    flat = trees.flatten(variables)
    _complete(rules, {path: tuple(np.shape(leaf)) for path, leaf in flat.items()})
    for rule in rules:
        paths = [our_path(path) for path in rule.paths]
        if not all(path in flat for path in paths):
            continue
        parts = [flat[path] for path in paths]
        for number, name in _names(rule, np.shape(parts[0])):
            rows = [np.asarray(part if number is None else part[number]) for part in parts]
            written = [rule.form.write(row) for row in rows]
            whole = written[0] if len(written) == 1 else np.concatenate(written, rule.axis)
            yield name, np.asarray(whole, order="C")


def with_counters(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """PyTorch's batch normalisation also counts batches, and never reads the number: 0."""
    for name, array in tensors:
        yield name, array
        if name.endswith(".running_var"):
            yield name.removesuffix("running_var") + "num_batches_tracked", np.zeros((), np.int64)


Table = Mapping[str, tuple[Rule, int]]
"""Our path to the rule that fills it, and its number among the rule's paths."""


def _complete(rules: Sequence[Rule], wanted: Mapping[str, Any]) -> Table:
    """The table by our path; a parameter without a rule is a mistake in the table."""
    table: dict[str, tuple[Rule, int]] = {}
    for rule in rules:
        for number, path in enumerate(rule.paths):
            if our_path(path) in table:
                raise WeightsError(f"two rules fill {path}")
            table[our_path(path)] = (rule, number)
    bare = [path for path in wanted if path not in table]
    if bare:
        raise WeightsError(f"no rule fills {len(bare)} parameters: {', '.join(bare[:8])}")
    return table


def _names(rule: Rule, shape: Sequence[int]) -> Iterator[tuple[int | None, str]]:
    """(row of ours, name of theirs) of a rule; row None where ours is not stacked."""
    if not rule.stacked:
        yield None, rule.theirs
        return
    layers = range(shape[0]) if rule.layers is None else rule.layers
    if len(layers) != shape[0]:
        raise WeightsError(f"{rule.theirs}: {len(layers)} layers are listed, ours has {shape[0]}")
    for row, layer in enumerate(layers):
        yield row, rule.theirs.replace("{}", str(layer))


def _missing(table: Table, wanted: Mapping, known: Mapping) -> list[tuple[str, str]]:
    expected = {name for path in wanted for _, name in _names(table[path][0], wanted[path])}
    return [("missing", name) for name in sorted(expected - known.keys())]


def _unexpected(
    table: Table, wanted: Mapping, known: Mapping, ignored: Sequence[str]
) -> list[tuple[str, str]]:
    used = {name for path in wanted for _, name in _names(table[path][0], wanted[path])}
    rest = [name for name in known if name not in used]
    skipped = [re.compile(pattern) for pattern in ignored]
    return [("unexpected", known[n]) for n in rest if not any(p.fullmatch(n) for p in skipped)]


def _misshapen(table: Table, wanted: Mapping, shapes: Mapping) -> list[tuple[str, str]]:
    """Tensors, of those that there are, that do not give ours the shape it should have, found
    without reading them.
    """
    problems = []
    for path, shape in wanted.items():
        rule, number = table[path]
        row = shape[1:] if rule.stacked else shape
        for name in (name for _, name in _names(rule, shape) if name in shapes):
            theirs = np.broadcast_to(np.zeros((), np.int8), shapes[name])
            try:
                got = np.shape(rule.form.read(_part(rule, number, theirs)))
            except ValueError:
                got = None
            if got != row:
                problems.append(("misshapen", f"{name} {list(shapes[name])}, for {list(row)}"))
    return sorted(set(problems))


def _part(rule: Rule, number: int, tensor: np.ndarray) -> np.ndarray:
    """The share of one of our paths in their tensor."""
    if len(rule.paths) == 1:
        return tensor
    if rule.sizes is None:
        return np.split(tensor, len(rule.paths), rule.axis)[number]
    return np.split(tensor, np.cumsum(rule.sizes)[:-1], rule.axis)[number]


def _assemble(
    entry: tuple[Rule, int], shape: tuple[int, ...], load: Callable, dtype: Any
) -> np.ndarray:
    """One parameter of ours."""
    rule, number = entry
    array = None
    for row, name in _names(rule, shape):
        part = rule.form.read(_part(rule, number, load(name)))
        floating = np.issubdtype(part.dtype, np.floating) or part.dtype.name == "bfloat16"
        kind = dtype if dtype is not None and floating else part.dtype
        if row is None:
            return np.asarray(part, kind, order="C")
        array = np.empty(shape, kind) if array is None else array
        array[row] = part
    return np.empty(shape, dtype or np.float32) if array is None else array


def _report(problems: Sequence[tuple[str, str]]) -> str:
    """All problems in one message, a line per kind, the first twenty of each."""
    lines = []
    for kind in ("missing", "unexpected", "misshapen"):
        names = [name for found, name in problems if found == kind]
        if names:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            lines.append(f"{len(names)} {kind}: {', '.join(names[:20])}{more}")
    return (
        "the checkpoint does not fit the model that its config.json describes; "
        + "; ".join(lines)
        + ". Use the tensors and the config of one and the same model"
    )
