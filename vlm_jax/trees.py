"""Parameter trees seen as dictionaries from paths to arrays, and selections of parameters by
regular expression.

A path joins the keys of a leaf with "/": "vision/block_0/attention/query/kernel". Every regular
expression in a config (frozen parameters, weight decay, learning-rate multipliers, sharding rules,
loading of weights) selects paths in one way: it must match a whole path, or a whole ancestor of it.
So "vision" selects everything under "vision" and nothing of "vision_head", ".*/bias" selects every
bias that is not at the top, and ".*norm.*" every path with "norm" in it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import jax
import numpy as np

Tree = Any
"""A pytree of arrays, or of anything with a shape and a dtype, such as jax.ShapeDtypeStruct."""


def path_string(path: tuple) -> str:
    """A JAX key path as text: ("encoder", 0, "kernel") becomes "encoder/0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Tree) -> dict[str, Any]:
    """Path to leaf, in the order of `jax.tree.leaves`."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from paths; the inverse of `flatten` for a tree of dictionaries.

    ValueError if one path is both a leaf and the ancestor of another leaf.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path!r} lies below a path that is itself a leaf")
        if name in node:
            raise ValueError(f"{path!r} is both a leaf and the ancestor of another leaf")
        node[name] = leaf
    return tree


def map_with_path(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """`function(path, leaf, *other_leaves)` at every leaf; the tree keeps its structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def compile_pattern(pattern: str) -> re.Pattern:
    """A regular expression whose `.match(path)` follows the selection rule of this module.

    ValueError naming the pattern if it is not a regular expression.
    """
    try:
        return re.compile(rf"(?:{pattern})(?=/|$)")
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


def select(pattern: str, paths: Iterable[str], where: str) -> list[str]:
    """The paths that `pattern` selects. ValueError, naming `where` and the nearest paths, if it
    selects none.
    """
    paths = list(paths)
    compiled = compile_pattern(pattern)
    selected = [path for path in paths if compiled.match(path)]
    if not selected:
        ancestors = {
            "/".join(path.split("/")[:n]) for path in paths for n in range(1, path.count("/") + 2)
        }
        near = get_close_matches(pattern, sorted(ancestors), n=3, cutoff=0.5) or paths[:3]
        raise ValueError(
            f"{where}: the regular expression {pattern!r} selects no parameter; it has to "
            "match a whole path or a whole ancestor of one. Nearest of "
            f"{len(paths)} paths: {', '.join(near) or 'none'}"
        )
    return selected


def match(patterns: Sequence[str], tree: Tree, where: str = "patterns") -> Tree:
    """A tree of bools: True where any of the patterns selects the leaf. ValueError for a pattern
    that selects none.
    """
    selected: set[str] = set()
    for pattern in patterns:
        selected.update(select(pattern, flatten(tree), where))
    return map_with_path(lambda path, _: path in selected, tree)


def count_parameters(tree: Tree) -> int:
    """Number of scalars in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Tree) -> int:
    """Bytes of all leaves, each counted once however many devices hold it."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(tree: Tree, depth: int | None = None) -> str:
    """Text table of path, shape, dtype and number of parameters, ending in a total.

    depth: sum up everything below this many path components (at least 1); None lists every leaf.
    """
    groups: dict[str, list] = {}
    for path, leaf in flatten(tree).items():
        groups.setdefault("/".join(path.split("/")[:depth]), []).append(leaf)
    rows = [("parameter", "shape", "dtype", "count")]
    for path, leaves in groups.items():
        dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        shape = str(list(leaves[0].shape)) if len(leaves) == 1 else f"{len(leaves)} arrays"
        rows.append((path, shape, dtypes, f"{count_parameters(leaves):,}"))
    rows.append(
        ("total", f"{count_bytes(tree) / 2**20:,.1f} MiB", "", f"{count_parameters(tree):,}")
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    line = lambda row: "  ".join(
        [*(c.ljust(w) for c, w in zip(row[:3], widths, strict=False)), row[3].rjust(widths[3])]
    )
    rule = "-" * (sum(widths) + 6)
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:-1]), rule, line(rows[-1])])


def rename_paths(flat: Mapping[str, Any], rename: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Replaces, for each (pattern, replacement) in turn, the path or ancestor that the pattern
    matches.

    A replacement may refer to groups of its pattern. ValueError for a pattern that selects nothing
    or if two paths become one.
    """
    for pattern, replacement in rename:
        select(pattern, flat, "rename")
        compiled = re.compile(f"^{compile_pattern(pattern).pattern}")
        renamed = {path: compiled.sub(replacement, path).strip("/") for path in flat}
        if len(set(renamed.values())) < len(renamed):
            raise ValueError(
                f"rename {pattern!r} -> {replacement!r} gives two parameters the same path"
            )
        flat = {renamed[path]: leaf for path, leaf in flat.items()}
    return dict(flat)


def merge(
    params: Tree,
    loaded: Mapping[str, Any],
    *,
    rename: Sequence[Sequence[str]] = (),
    skip: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Tree:
    """`params` with its values replaced by loaded ones; dtype and sharding stay those of `params`.

    loaded: path to array, as `checkpoint.load_params` returns. rename: (pattern, replacement) pairs
    applied to the loaded paths, in order. skip: patterns of parameters that keep their value in
    `params`, or of loaded ones that are not wanted. optional: patterns of parameters that are
    replaced only where both have them in one shape; they may match nothing. ValueError listing
    every missing, unexpected and wrongly shaped parameter together, and for another pattern that
    matches nothing.
    """
    ours, theirs = flatten(params), rename_paths(loaded, rename)
    every = {**ours, **theirs}
    skipped = {path for pattern in skip for path in select(pattern, every, "skip")}
    may = [compile_pattern(pattern).match for pattern in optional]
    shape = lambda leaves, path: tuple(leaves[path].shape) if path in leaves else None
    apart = [path for path in every if shape(ours, path) != shape(theirs, path)]
    skipped |= {path for path in apart if any(match(path) for match in may)}
    wanted, given = set(ours) - skipped, set(theirs) - skipped
    problems = {
        "missing from the loaded weights": sorted(wanted - given),
        "unexpected in the loaded weights": sorted(given - wanted),
        "of another shape": [
            f"{path} (model {list(ours[path].shape)}, loaded {list(theirs[path].shape)})"
            for path in sorted(wanted & given)
            if tuple(ours[path].shape) != tuple(theirs[path].shape)
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(paths)} {kind}: {', '.join(paths)}"
            for kind, paths in problems.items()
            if paths
        ]
        raise ValueError("\n".join(["loaded weights do not fit; use `rename` or `skip`:", *lines]))
    return map_with_path(
        lambda path, leaf: _place(theirs[path], leaf) if path in wanted else leaf, params
    )


def _place(value: Any, like: Any) -> Any:
    """`value` with the dtype of `like`, and on its devices if it is a JAX array."""
    value = np.asarray(value).astype(like.dtype)
    return jax.device_put(value, like.sharding) if isinstance(like, jax.Array) else value
