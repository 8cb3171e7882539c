"""Cross-entropy over a large vocabulary, without the scores of all words at once.

257,152 words times 4 bytes are a megabyte per token: what enters the output layer is a hundred
times smaller. So the scores are computed for some words at a time, and again for the gradient.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.constraints import PARTS
from vlm_jax.losses import ring
from vlm_jax.losses.cross_entropy import mean_over_targets, token_cross_entropy

BLOCK = 8192
"""Words whose scores exist at a time, unless a caller says otherwise."""


class Unembedding(NamedTuple):
    """What enters an output layer, with the layer: scores not yet computed.

    hidden: [B, T, D] in the dtype to compute in. table: [V, D], a vector per word. bias: f32[V], or
    None. softcap: c of c tanh(score / c) (arXiv:2408.00118, section 2), or None.
    """

    hidden: Float[Array, "B T D"]
    table: Float[Array, "V D"]
    bias: Float[Array, " V"] | None = None
    softcap: float | None = None

    def logits(self) -> Float[Array, "B T V"]:
        """All scores, in float32."""
        table = self.table.astype(self.hidden.dtype)
        return _capped(jnp.einsum("BTD,VD->BTV", self.hidden, table), self.bias, self.softcap)


def _capped(logits: Array, bias: Array | None, softcap: Any) -> Array:
    logits = logits.astype(jnp.float32)
    if bias is not None:
        logits = logits + bias.reshape((1,) * (logits.ndim - 1) + (-1,))
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def blocked_cross_entropy(
    words: Unembedding,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    block: int = BLOCK,
    label_smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """`masked_cross_entropy(words.logits(), ...)`, with the scores of at most `block` words at a
    time, in the forward and in the backward pass.

    Where the mesh in force splits parameters over `fsdp`, the table stays split by words and the
    tokens travel to it; its gradient is then complete where it is needed. ValueError if block is
    not positive.
    """
    return mean_over_targets(_blocked(words, targets, block, label_smoothing), mask)


def _blocked(words: Unembedding, targets: Array, block: int, smoothing: float) -> Array:
    """Negative log-likelihood of each target, f32[B, T]."""
    if block < 1:
        raise ValueError(f"block={block}: it counts words, so it is at least 1")
    bias = jnp.zeros(len(words.table)) if words.bias is None else words.bias.astype(jnp.float32)
    softcap = None if words.softcap is None else jnp.float32(words.softcap)
    return _nll((block, smoothing), words.hidden, words.table, bias, softcap, targets)


def written_cross_entropy(
    outputs: Mapping, batch: Mapping, *, block: int | None = None, label_smoothing: float = 0.0
) -> Float[Array, " B"]:
    """Mean cross-entropy of each example's targets, from "logits" or, `block` words at a time, from
    the "words" (an Unembedding) of the outputs. batch: targets, targets_mask and, where a row holds
    several examples, segments (see `mean_over_targets`).
    """
    targets = batch["targets"]
    if "words" in outputs:
        nll = _blocked(outputs["words"], targets, block or BLOCK, label_smoothing)
    else:
        nll = token_cross_entropy(outputs["logits"], targets, label_smoothing)
    return mean_over_targets(nll, batch["targets_mask"], batch.get("segments"))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(
    settings: tuple[int, float],
    hidden: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    bias: Float[Array, " V"],
    softcap: Any,
    targets: Int[Array, "B T"],
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each target. settings: block, label_smoothing."""
    return _nll_forward(settings, hidden, table, bias, softcap, targets)[0]


def _nll_forward(settings: Any, hidden: Any, table: Any, bias: Any, softcap: Any, targets: Any):
    block, smoothing = settings
    zero = jnp.zeros(targets.shape)
    sums = {"lse": jnp.full(targets.shape, -jnp.inf), "own": zero, "total": zero}
    layer, token = {"table": table, "bias": bias}, {"hidden": hidden, "target": targets}
    _, sums = _all_words(partial(_add_scores, smoothing), block, softcap, layer, token, {}, sums)
    nll = sums["lse"] - sums["own"]
    if smoothing:
        uniform = sums["lse"] - sums["total"] / len(table)
        nll = (1.0 - smoothing) * nll + smoothing * uniform
    return nll, (hidden, table, bias, softcap, targets, sums["lse"])


def _nll_backward(settings: Any, kept: Any, gradient: Float[Array, "B T"]):
    block, smoothing = settings
    hidden, table, bias, softcap, targets, lse = kept
    layer = {"table": table, "bias": bias}
    token = {"hidden": hidden, "target": targets, "lse": lse, "gradient": gradient}
    words = {"table": jnp.zeros(table.shape), "bias": jnp.zeros(bias.shape)}
    sums = {"hidden": jnp.zeros(hidden.shape)}
    add = partial(_add_gradients, smoothing, len(table))
    words, sums = _all_words(add, block, softcap, layer, token, words, sums)
    of_table, of_hidden = words["table"].astype(table.dtype), sums["hidden"].astype(hidden.dtype)
    return of_hidden, of_table, words["bias"], None, None


_nll.defvjp(_nll_forward, _nll_backward)


class Block(NamedTuple):
    """Some words. number: i32[v], their indices in the vocabulary; fresh: bool[v], those that
    count here: real ones that no earlier block had; table, bias: their part of the output layer.
    """

    number: Int[Array, " v"]
    fresh: Bool[Array, " v"]
    table: Float[Array, "v D"]
    bias: Float[Array, " v"]


def _add_scores(smoothing: float, softcap: Any, words: Block, token: dict, sums: dict):
    """What a block of words adds to sums over words, for all tokens."""
    logits = _scores(softcap, words, token)  # [N, v]
    fresh = words.fresh[None]
    most = jax.nn.logsumexp(jnp.where(fresh, logits, -jnp.inf), axis=1)
    hit = (words.number[None] == token["target"][:, None]) & fresh
    found = {
        "lse": jnp.logaddexp(sums["lse"], most),
        "own": sums["own"] + jnp.sum(jnp.where(hit, logits, 0), axis=1),
    }
    if smoothing:
        found["total"] = sums["total"] + jnp.sum(jnp.where(fresh, logits, 0), axis=1)
    return {}, sums | found


def _add_gradients(
    smoothing: float, size: int, softcap: Any, words: Block, token: dict, sums: dict
):
    """Gradients of a block's table and bias, and what it adds to the tokens' own."""
    logits = _scores(softcap, words, token)  # [N, v]
    hit = words.number[None] == token["target"][:, None]
    slope = jnp.exp(logits - token["lse"][:, None]) - jnp.where(hit, 1.0 - smoothing, 0.0)
    slope = token["gradient"][:, None] * (slope - smoothing / size)
    if softcap is not None:
        slope = slope * (1.0 - (logits / softcap) ** 2)
    slope = jnp.where(words.fresh[None], slope, 0)
    bias = jnp.sum(slope, axis=0)
    hidden = token["hidden"]
    slope = slope.astype(hidden.dtype)
    exact = partial(jnp.einsum, preferred_element_type=jnp.float32)
    of_hidden = exact("nv,vd->nd", slope, words.table.astype(hidden.dtype))
    of_table = exact("nv,nd->vd", slope, hidden)
    return {"table": of_table, "bias": bias}, {"hidden": sums["hidden"] + of_hidden}


def _scores(softcap: Any, words: Block, token: dict) -> Float[Array, "N v"]:
    hidden, table = token["hidden"], words.table.astype(token["hidden"].dtype)
    logits = jnp.einsum("nd,vd->nv", hidden, table, preferred_element_type=jnp.float32)
    return _capped(logits, words.bias, softcap)


def _all_words(
    add: Any, block: int, softcap: Any, layer: dict, token: dict, words: dict, sums: dict
) -> tuple[dict, dict]:
    """Sums per word (leading axis V) and per token ([B, T, ...]) over all pairs of the two.

    add: (softcap, Block, token, sums) -> (what is added to the block's words, sums).
    """
    axes = ring.batch_axes(len(token["target"]))
    home = tuple(axis for axis in axes if axis in PARTS)
    rest = tuple(axis for axis in axes if axis not in home)
    size = len(layer["bias"])
    pad = lambda x: jnp.pad(x, ((0, -size % ring.parts(home)), *[(0, 0)] * (x.ndim - 1)))
    layer, words = jax.tree.map(pad, (layer, words))

    def local(softcap: Any, layer: dict, token: dict, words: dict, sums: dict):
        shape = token["target"].shape
        flat = partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))
        first = jax.lax.axis_index(home) * len(layer["bias"]) if home else 0

        def visit(words: dict, moving: tuple[dict, dict]):
            token, sums = moving
            given = (first, size, block, layer, token, words, sums)
            words, sums = _blocks(partial(add, softcap), *given)
            return words, (token, sums)

        words, (_, sums) = ring.travel(visit, home, words, (flat(token), flat(sums)))
        if rest:
            words = jax.lax.psum(words, rest)
        return words, jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), sums)

    run = ring.split(local, ((), home, axes, home, axes), (home, axes))
    words, sums = run(softcap, layer, token, words, sums)
    return jax.tree.map(lambda x: x[:size], words), sums


def _blocks(
    add: Any, first: Any, size: int, block: int, layer: dict, token: dict, words: dict, sums: dict
) -> tuple[dict, dict]:
    """One block of words after the other. The last one begins early enough to be whole.

    first: index of the first word here. size: V; words from there on do not count.
    """
    count = len(layer["bias"])
    block = min(block, count)
    cut = lambda start: lambda x: jax.lax.dynamic_slice_in_dim(x, start, block)

    def step(number: Any, carry: tuple[dict, dict]):
        words, sums = carry
        start = jnp.minimum(number * block, count - block)
        places = start + jnp.arange(block)
        fresh = (places >= number * block) & (first + places < size)
        some = Block(first + places, fresh, **jax.tree.map(cut(start), layer))
        added, sums = add(some, token, sums)
        put = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, cut(start)(x) + new, start, 0)
        return jax.tree.map(put, words, added), sums

    return jax.lax.fori_loop(0, -(-count // block), step, (words, sums))
