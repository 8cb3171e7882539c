"""The one transformer stack: pre- or post-norm, with or without cross-attention, scanned."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.apart import is_apart
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.cache import write
from vlm_jax.layers.constraints import BATCH, LENGTH, constrain
from vlm_jax.layers.masks import with_open_keys
from vlm_jax.layers.mlp import Mlp
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.remat import remat
from vlm_jax.layers.residual import Modulation, drop_path, modulate, on_share
from vlm_jax.layers.rotary import Rotary

PARTS = ("self", "mlp", "cross", "cross_mlp", "rest_mlp")
"""What a block may be made of, in any order."""

Options = Mapping[str, Any]
"""Keyword arguments for a part of a block, beyond those that the block itself sets."""

NO_OPTIONS = FrozenDict()


class Around(NamedTuple):
    """What every layer of a stack sees besides its input; see `Transformer.__call__`."""

    mask: Any = None
    rotary: Any = None
    relative: Any = None
    context: Any = None
    context_mask: Any = None
    slot: Any = None
    condition: Any = None


class Block(nn.Module):
    """Parts that each add to what passes through: attention and MLPs, with a norm each.

    parts: some of PARTS, in the order given. norm: see make_norm. norm_first: normalise what
    enters each part (ViT, GPT-2) or what leaves each sum (BERT). sandwich: with norm_first, also
    normalise what a part adds (Gemma 2, arXiv:2408.00118). bias: of all dense layers. attention:
    further keyword arguments of `Attention`; cross: those of cross-attention alone; mlp: those of
    `Mlp`. cross_gate: multiply what cross parts add by the tanh of a learned "scalar" or "vector"
    that starts at 0, and add nothing to tokens that `context_mask` shows nothing (Flamingo,
    arXiv:2204.14198, section 2.2). context_norm: normalise the context in every layer (CoCa,
    arXiv:2205.01917, as released by open_clip). cross_own: cross-attention reads, after the
    context, also what it adds to (Flamingo's resampler, section 2.1). leading: self-attention is of
    all tokens, but cross parts and "mlp" are of so many first ones, and "rest_mlp" of the others
    (BLIP-2's Q-Former, arXiv:2301.12597, section 3.1). dropout: on attention probabilities and on
    what each part adds.
    """

    heads: int
    mlp_width: int
    parts: tuple[str, ...] = ("self", "mlp")
    norm: str = "layer"
    norm_first: bool = True
    sandwich: bool = False
    epsilon: float = 1e-6
    activation: str = "gelu"
    bias: bool = True
    attention: Options = NO_OPTIONS
    cross: Options = NO_OPTIONS
    mlp: Options = NO_OPTIONS
    cross_gate: str | None = None
    context_norm: bool = False
    cross_own: bool = False
    leading: int | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], layer: Mapping, around: Around, train: bool
    ) -> tuple[Float[Array, "B T D"], Mapping | None]:
        """One layer. layer: what it has for itself: cache (its {"self": ..., "cross": ...} keys and
        values), drop_path f32[], kind i32[], active bool[], each None where not used. Cross parts
        are left out where there is neither a context nor a cached one. ValueError for an unknown
        part.
        """
        before, around, cache = x, _of_kind(around, layer["kind"]), layer["cache"]
        crossed = around.context is not None or (cache is not None and "cross" in cache)
        parts = [part for part in self.parts if crossed or not part.startswith("cross")]
        modulations = self._modulations(parts, around.condition)
        new_cache = {}
        for part in parts:
            if part in ("self", "cross"):
                add = partial(self._attend, part, around, cache, new_cache, train)
            elif part in PARTS:
                add = partial(self._mlp, part, train)
            else:
                raise ValueError(f"unknown part {part!r} of a block: choose from {PARTS}")
            given = (part, add, modulations.get(part), layer["drop_path"], train)
            x = on_share(self.leading, part, x, partial(self._residual, *given))
        if layer["active"] is not None:
            x = jnp.where(layer["active"], x, before)
        if around.context is None:  # what was read from the cache stays there, uncopied
            new_cache.pop("cross", None)
        return x, None if cache is None else new_cache

    @nn.nowrap
    def _attend(
        self, part: str, around: Around, cache: Any, new_cache: dict, train: bool, x: Array
    ) -> Array:
        options: dict[str, Any] = dict(heads=self.heads, bias=self.bias, out_bias=self.bias)
        options |= dict(epsilon=self.epsilon, dropout=self.dropout, dtype=self.dtype)
        options |= dict(self.attention) | (dict(self.cross) if part == "cross" else {})
        module = Attention(**options, name=f"{part}_attention")
        held = None if cache is None else cache[part]
        if part == "self":
            seen = around._asdict()
            seen = {name: seen[name] for name in ("mask", "rotary", "relative", "slot")}
            out, new_cache[part] = module(x, cache=held, train=train, **seen)
            return out
        context = around.context
        mask = around.context_mask
        if self.context_norm and context is not None:
            context = self._norm("context_norm")(context)
        if self.cross_own and context is not None:
            context = jnp.concatenate([context, x], axis=1)
            mask = None if mask is None else with_open_keys(mask, x.shape[1])
        out, new_cache[part] = module(x, context, mask=mask, cache=held, train=train)
        if self.cross_gate is None or mask is None:
            return out
        return jnp.where(jnp.any(mask, axis=(1, 3))[..., None], out, 0)  # [B, T or 1, 1]

    @nn.nowrap
    def _mlp(self, part: str, train: bool, x: Array) -> Array:
        options: dict[str, Any] = dict(bias=self.bias, dropout=self.dropout, dtype=self.dtype)
        options |= dict(self.mlp)
        return Mlp(self.mlp_width, self.activation, **options, name=part)(x, train=train)

    @nn.nowrap
    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name=name)

    @nn.nowrap
    def _modulations(self, parts: Sequence[str], condition: Array | None) -> dict[str, Any]:
        if condition is None:
            return {}
        made = Modulation(3 * len(parts), self.dtype, name="modulation")(condition)
        return {part: made[3 * i : 3 * i + 3] for i, part in enumerate(parts)}

    @nn.nowrap
    def _residual(
        self, part: str, add: Any, modulation: Any, rate: Array | None, train: bool, x: Array
    ) -> Float[Array, "B T D"]:
        norm = self._norm(f"{part}_norm")
        entering = norm(x) if self.norm_first else x
        added = add(entering if modulation is None else modulate(entering, *modulation[:2]))
        if self.sandwich:
            added = self._norm(f"{part}_post_norm")(added)
        if self.cross_gate is not None and part.startswith("cross"):
            shape = {"scalar": (1, 1, 1), "vector": (1, 1, x.shape[-1])}[self.cross_gate]
            gate = self.param(f"{part}_gate", nn.initializers.zeros_init(), shape)
            added = jnp.tanh(gate).astype(self.dtype) * added
        if modulation is not None:
            added = modulation[2] * added
        added = nn.Dropout(self.dropout, deterministic=not train)(added)
        if rate is not None:
            added = drop_path(added, rate, self.make_rng("dropout"))
        return constrain(x + added if self.norm_first else norm(x + added), BATCH, LENGTH)


def _of_kind(around: Around, kind: Int[Array, ""] | None) -> Around:
    """The mask and the angles that layers of this kind use, of those stacked along axis 0."""
    if kind is None:
        return around
    mask, rotary = (jax.tree.map(lambda leaf: leaf[kind], x) for x in around[:2])
    return around._replace(mask=mask, rotary=rotary)


class Group(nn.Module):
    """`size` successive blocks, of which number `cross_offset` alone keeps its cross parts, or all
    do if it is None. block: fields of `Block`.
    """

    size: int
    cross_offset: int | None
    block: Options

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], layers: Mapping, around: Around, train: bool
    ) -> tuple[Float[Array, "B T D"], Mapping | None]:
        """layers: as `Block`'s, each entry with a leading axis of `size`, the cache by block."""
        caches = {}
        for i in range(self.size):
            fields = dict(self.block)
            if self.cross_offset not in (None, i):
                fields["parts"] = tuple(p for p in fields["parts"] if not p.startswith("cross"))
            name = f"block_{i}"
            layer = {
                key: None if v is None else v[i] for key, v in layers.items() if key != "cache"
            }
            layer["cache"] = None if layers["cache"] is None else layers["cache"][name]
            x, caches[name] = Block(**fields, name=name)(x, layer, around, train)
        return x, None if layers["cache"] is None else caches


class Transformer(nn.Module):
    """`layers` blocks scanned with stacked parameters [L, ...]: compile time ignores depth.

    Fields are those of `Block`, and:
    pattern: the kinds of successive layers, repeated to the end, as indices into the masks and
        angles that are then given as sequences (Gemma 3: (0, 0, 0, 0, 0, 1), five local layers to a
        global one); empty for layers that are all alike.
    cross_every, cross_offset: cross parts only in layers whose number modulo cross_every is
        cross_offset (BLIP-2's Q-Former: 2, 0). The scan is then over groups of cross_every layers.
    drop_path: the stochastic-depth rate of the last layer (the first has 0, linear between).
    final_norm: one more norm at the end, as pre-norm stacks need; a name for one of another kind.
    stop: return the states after this many layers, without the final norm. The other parameters are
        there all the same, for the sake of checkpoints that hold them (LLaVA's vision tower).
    remat: recompute each layer's activations in the backward pass instead of storing them; a key
        of layers.remat.POLICIES says which of them.
    """

    layers: int
    heads: int
    mlp_width: int
    parts: tuple[str, ...] = ("self", "mlp")
    norm: str = "layer"
    norm_first: bool = True
    sandwich: bool = False
    final_norm: bool | str = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    bias: bool = True
    attention: Options = NO_OPTIONS
    cross: Options = NO_OPTIONS
    mlp: Options = NO_OPTIONS
    cross_gate: str | None = None
    context_norm: bool = False
    cross_own: bool = False
    leading: int | None = None
    cross_every: int = 1
    cross_offset: int = 0
    pattern: tuple[int, ...] = ()
    dropout: float = 0.0
    drop_path: float = 0.0
    stop: int | None = None
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B #N #T M"] | Sequence[Array] | None = None,
        rotary: Rotary | Sequence[Rotary] | None = None,
        relative: Float[Array, "#B N T M"] | None = None,
        context: Float[Array, "B S C"] | None = None,
        context_mask: Bool[Array, "#B #N #T S"] | None = None,
        cache: Mapping | None = None,
        slot: Int[Array, ""] | None = None,
        condition: Float[Array, "B D"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Mapping | None]:
        """Run all layers: (hidden states, new cache); cache leaves [L, B, ...] (`empty_cache`).

        mask, rotary, relative, slot: of self-attention (see `Attention`); with a pattern, mask and
        rotary hold one entry per kind. context, context_mask: of cross-attention. condition: sets
        shift, scale and gate of every part (DiT, arXiv:2212.09748), whose norms should be plain.
        """
        if self.pattern:
            stack = lambda *leaves: jnp.stack(leaves)
            mask = None if mask is None else jnp.stack(list(mask))
            rotary = None if rotary is None else jax.tree.map(stack, *rotary)
        around = Around(mask, rotary, relative, context, context_mask, slot, condition)
        x = constrain(x.astype(self.dtype), BATCH, LENGTH)
        x, new_cache = self._run(x, self._layers(cache, train), around, train)
        self.sow("intermediates", "before_final_norm", x)  # nothing, unless someone asks for it
        if self.final_norm:
            kind = self.norm if self.final_norm is True else str(self.final_norm)
            norm = make_norm(kind, epsilon=self.epsilon, dtype=self.dtype, name="final_norm")
            x = norm(x) if self.stop is None else (norm(x), x)[1]  # its parameters exist either way
        if cache is None or new_cache is None:
            return x, None
        return x, write(cache, new_cache, slot)

    def empty_cache(self, width: int, batch: int, slots: int, memory_slots: int = 0) -> Mapping:
        """Zeroed keys and values [L, B, N_kv, M, K] for this stack at model width `width`."""

        def empty(layers, part, length):
            options = dict(self.attention) | (dict(self.cross) if part == "cross" else {})
            heads = options.get("heads", self.heads)
            head_dim = options.get("head_dim") or width // heads
            shape = (layers, batch, options.get("kv_heads") or heads, length, head_dim)
            return {name: jnp.zeros(shape, self.dtype) for name in ("key", "value")}

        def block(layers, crossed=True):
            lengths = {"self": slots} | ({"cross": memory_slots} if crossed else {})
            return {p: empty(layers, p, n) for p, n in lengths.items() if p in self.parts}

        def group(layers, size):
            blocks = range(size)
            return {f"block_{i}": block(layers, i == self.cross_offset) for i in blocks}

        if self.cross_every == 1:
            return block(self.layers)
        groups, rest = divmod(self.layers, self.cross_every)
        return {"groups": group(groups, self.cross_every), "rest": group(1, rest)}

    @nn.nowrap
    def _layers(self, cache: Mapping | None, train: bool) -> dict[str, Any]:
        """What each layer has for itself, with a leading axis L (the cache as it is)."""
        drop_path = kind = None
        if train and self.drop_path:
            drop_path = jnp.linspace(0.0, self.drop_path, self.layers)
        if self.pattern:
            kinds = [self.pattern[i % len(self.pattern)] for i in range(self.layers)]
            kind = jnp.array(kinds, jnp.int32)
        active = None if self.stop is None else jnp.arange(self.layers) < self.stop
        return {"cache": cache, "drop_path": drop_path, "kind": kind, "active": active}

    @nn.nowrap
    def _run(self, x: Array, layers: dict, around: Around, train: bool):
        """Scan over blocks, or over groups of blocks and then through the rest; blocks whose
        parameters are apart (see layers.apart) follow each other.
        """
        block = {name: getattr(self, name) for name in BLOCK_FIELDS}
        if self.remat == "sliced":
            block["mlp"] = {"sliced": True, **self.mlp}
        if is_apart(self.variables.get("params", {})):
            return Group(self.layers, None, block, name="layers")(x, layers, around, train)
        if self.cross_every == 1:
            return self._scan(Block, self.layers)(**block, name="layers")(x, layers, around, train)
        size = self.cross_every
        groups, rest = divmod(self.layers, size)
        own = {name: value for name, value in layers.items() if name != "cache"}
        whole = {
            name: None if v is None else v[: groups * size].reshape(groups, size)
            for name, v in own.items()
        }
        left = {name: None if v is None else v[groups * size :] for name, v in own.items()}
        cache = layers["cache"] or {"groups": None, "rest": None}
        fields: dict[str, Any] = dict(cross_offset=self.cross_offset, block=block)
        scanned = cache["groups"]
        if groups:
            scan = self._scan(Group, groups)(size, **fields, name="groups")
            x, scanned = scan(x, whole | {"cache": cache["groups"]}, around, train)
        held = jax.tree.map(lambda leaf: leaf[0], cache["rest"])
        x, last = Group(rest, **fields, name="rest")(x, left | {"cache": held}, around, train)
        if layers["cache"] is None:
            return x, None
        return x, {"groups": scanned, "rest": jax.tree.map(lambda leaf: leaf[None], last)}

    @nn.nowrap
    def _scan(self, layer: Any, length: int) -> Any:
        return nn.scan(
            remat(layer, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]  flax's stub knows ints only
            length=length,
            check_constancy_invariants=False,
        )


def stack(module: Any, **given: Any) -> Transformer:
    """A Transformer whose fields are `given`, or else the module's own of the same name."""
    shared = {name: getattr(module, name) for name in FIELDS if hasattr(module, name)}
    return Transformer(**(shared | given))


BLOCK_FIELDS = (
    "heads", "mlp_width", "parts", "norm", "norm_first", "sandwich", "epsilon", "activation",
    "bias", "attention", "cross", "mlp", "cross_gate", "context_norm", "cross_own", "leading",
    "dropout", "dtype",
)  # fmt: skip
FIELDS = (
    *BLOCK_FIELDS, "layers", "final_norm", "cross_every", "cross_offset", "pattern", "drop_path",
    "stop", "remat",
)  # fmt: skip
