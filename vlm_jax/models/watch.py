"""What a model computes on the way, as outputs: attention probabilities, and states of any module.

No module knows that it is watched. Calls are intercepted; what is seen is filed beside the
parameters of the module that made it, and what is to be added to it is read from there. So it goes
through scanned and recomputed layers, jit and grad like parameters do: a stack of L layers gives
one array with a leading axis L.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.dot_product import dot_product_attention
from vlm_jax.layers.rotary import rotate
from vlm_jax.types import Variables

SCANNED = ("layers", "groups")
"""Names of modules that are scanned over a stack."""

SEEN, ADDED = "seen", "added"


class Seen(NamedTuple):
    """One watched call. path: of the module, such as "decoder/transformer/layers/cross_attention".

    number: how many calls of the same module came before. layer: its place in the stack, None
    outside of one. cross: attention to something else than itself. value: attention probabilities
    [B, N, T, S], or the module's output.
    """

    path: str
    number: int
    layer: int | None
    cross: bool
    value: Array


class Inside(NamedTuple):
    """An attention that is being computed. given: its arguments by name; projected: its queries,
    keys and values so far, [B, T or S, N, K].
    """

    module: Attention
    given: Mapping[str, Any]
    projected: dict[str, Array]

    def crosses(self) -> bool:
        """Whether it attends to something else than itself."""
        return self.given.get("context") is not None

    def weights(self) -> Float[Array, "B N T S"]:
        """What the layer does with its values, whatever it does: values that are 1 in one channel
        for one key and 0 elsewhere come out as that key's probability, K keys at a time.
        """
        turn, module = self.given.get("rotary"), self.module
        q, k = (
            x if turn is None else rotate(x, turn)
            for x in (self.projected["query"], self.projected["key"])
        )
        batch, keys, heads, channels = k.shape
        one_hot = jnp.eye(keys, -(-keys // channels) * channels, dtype=k.dtype)
        named: dict[str, Any] = {name: self.given.get(name) for name in ("mask", "relative")}
        named |= {"scale": module.scale, "softcap": module.softcap}
        found = []
        for start in range(0, keys, channels):
            values = one_hot[None, None, :, start : start + channels]
            values = jnp.broadcast_to(values, (batch, heads, keys, channels))
            found.append(dot_product_attention(q, k.swapaxes(1, 2), values, **named))
        weights = jnp.concatenate(found, axis=-1)[..., :keys]  # [B, T, N, S]
        return jnp.moveaxis(weights, 1, 2)

    def attended(self, weights: Float[Array, "B N T S"]) -> Float[Array, "B T D"]:
        """The values under these weights, heads side by side."""
        v = self.projected["value"]
        v = jnp.repeat(v, weights.shape[1] // v.shape[2], axis=2)
        found = jnp.einsum("BNTS,BSNK->BTNK", weights.astype(v.dtype), v)
        return found.reshape(*found.shape[:2], -1)


def _given(x: Array, context: Array | None = None, **named: Any) -> dict[str, Any]:
    return {"context": context, **named}


class Watched(NamedTuple):
    """Values by (path, how many calls of the module came before), in the order of the calls.

    values: with a leading axis L where a module is one of a stack. stacked, cross: the keys that
    are of a stack, or of attention to something else.
    """

    values: dict[tuple[str, int], Array]
    stacked: frozenset[tuple[str, int]]
    cross: frozenset[tuple[str, int]]


Added = Mapping[tuple[str, int], Array]
"""What to add to watched values, by the same keys and of the same shapes."""


def attention(
    call: Callable[..., Any],
    variables: Variables,
    added: Added | None = None,
    *,
    heads: bool = True,
) -> tuple[Any, Watched]:
    """(outputs, the probabilities [L, B, N, T, S] or [B, N, T, S] of every attention).

    call: from (variables, mutable) to what `model.apply` with these returns. added: to the
    probabilities, which need no longer sum to 1; zeros make a gradient with respect to them.
    heads=False: the mean over heads, which takes N times less memory. An `AttendingLstm` gives its
    weights as [B, 1, T, S]; nothing can be added to them.
    """
    keep = (lambda weights: weights) if heads else (lambda weights: weights.mean(1, keepdims=True))
    inside: list[Inside] = []

    def tap(next_fun: Callable, args: tuple, kwargs: dict, context: Any, file: Callable) -> Any:
        module, method = context.module, context.method_name
        if isinstance(module, AttendingLstm) and method == "look":
            found = next_fun(*args, **kwargs)
            file(module, found[2][:, None], is_cross=True)
            return found
        if isinstance(module, Attention) and method == "__call__":
            inside.append(Inside(module, _given(*args, **kwargs), {}))
            found = next_fun(*args, **kwargs)
            inside.pop()
            return found
        if isinstance(module, Attention) and method == "_project":
            inside[-1].projected[args[0]] = next_fun(*args, **kwargs)
            return inside[-1].projected[args[0]]
        if inside and module.path == (*inside[-1].module.path, "out"):
            weights = file(module.parent, inside[-1].weights(), keep, inside[-1].crosses())
            return next_fun(inside[-1].attended(weights))
        return next_fun(*args, **kwargs)

    return _watch(call, variables, tap, added)


def outputs(
    call: Callable[..., Any],
    variables: Variables,
    paths: Collection[str],
    added: Added | None = None,
) -> tuple[Any, Watched]:
    """(outputs, what the modules at these paths return: of a tuple, the first array).

    added: to these values, before anything else reads them. ValueError for a path that is never
    called, naming those that are.
    """
    called: dict[str, None] = {}

    def tap(next_fun: Callable, args: tuple, kwargs: dict, context: Any, file: Callable) -> Any:
        module = context.module
        found = next_fun(*args, **kwargs)
        if context.method_name != "__call__" or not module.path:
            return found
        called["/".join(module.path)] = None
        if "/".join(module.path) not in paths:
            return found
        leaves, structure = jax.tree.flatten(found)
        leaves[0] = file(module, leaves[0])
        return jax.tree.unflatten(structure, leaves)

    result, watched = _watch(call, variables, tap, added)
    missing = set(paths) - {path for path, _ in watched.values}
    if missing:
        raise ValueError(f"no module {sorted(missing)} is called: choose from {sorted(called)}")
    return result, watched


def in_order(watched: Watched) -> Iterator[Seen]:
    """Every watched call in the order in which the model makes them, stacks layer by layer."""
    groups: list[tuple[Any, list[tuple[str, int]]]] = []
    for key in watched.values:
        root = _root(key[0]) if key in watched.stacked else key
        if not groups or groups[-1][0] != root:
            groups.append((root, []))
        groups[-1][1].append(key)
    for _, keys in groups:
        if keys[0] not in watched.stacked:
            yield Seen(*keys[0], None, keys[0] in watched.cross, watched.values[keys[0]])
            continue
        for layer in range(len(watched.values[keys[0]])):
            for key in keys:
                yield Seen(*key, layer, key in watched.cross, watched.values[key][layer])


def _watch(
    call: Callable[..., Any], variables: Variables, tap: Callable, added: Added | None
) -> tuple[Any, Watched]:
    """Run `call` with a tap, which files values; see the module docstring."""
    ranks: dict[tuple[str, int], int] = {}
    cross: set[tuple[str, int]] = set()

    def file(
        module: nn.Module, value: Array, keep: Callable = lambda x: x, is_cross: bool = False
    ) -> Array:
        number = 0
        while module.has_variable("params", f"{SEEN}_{number}"):
            number += 1
        key = ("/".join(module.path), number)
        if module.has_variable("params", f"{ADDED}_{number}"):
            value = value + module.get_variable("params", f"{ADDED}_{number}").astype(value.dtype)
        kept = keep(value)
        module.put_variable("params", f"{SEEN}_{number}", kept)
        ranks[key] = kept.ndim
        cross.update({key} if is_cross else ())
        return value

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        return tap(next_fun, args, kwargs, context, file)

    with nn.intercept_methods(interceptor):
        result, changed = call(_with_added(variables, added or {}), ["params"])
    flat: dict[Any, Any] = dict(flatten_dict(changed["params"]))
    values = {key: flat[(*key[0].split("/"), f"{SEEN}_{key[1]}")] for key in ranks}
    stacked = frozenset(key for key in ranks if values[key].ndim > ranks[key])
    return result, Watched(values, stacked, frozenset(cross))


def _with_added(variables: Variables, added: Added) -> dict[str, Any]:
    """The variables with what is to be added filed beside the parameters."""
    flat = dict(flatten_dict(dict(variables["params"])))
    for (path, call_number), value in added.items():
        flat[(*path.split("/"), f"{ADDED}_{call_number}")] = value
    return {**variables, "params": unflatten_dict(flat)}


def _root(path: str) -> str:
    """The scanned module that a path lies in."""
    names = path.split("/")
    ends = [i for i, name in enumerate(names) if name in SCANNED]
    return "/".join(names[: ends[0] + 1]) if ends else path
