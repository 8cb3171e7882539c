"""Continuous vectors as ids of a finite set and back: a learned codebook, or a fixed lattice.

Both pass gradients straight through the rounding (arXiv:1308.3432). What a codebook learns from
averages instead of gradients is state: `averaged_codebook` maps the state before to that after.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vlm_jax.layers.constraints import BATCH, constrain

Codebook = Mapping[str, Array]
"""vectors f32[V, D]; counts f32[V], how often each was used of late; sums f32[V, D] of what it then
stood for."""


class Quantized(NamedTuple):
    """vectors: f32[B, S, D], those that the ids stand for, with the gradient of what was given.
    ids: i32[B, S] in [0, V). loss: f32[B], what brings vectors and codebook together.
    """

    vectors: Float[Array, "B S D"]
    ids: Int[Array, "B S"]
    loss: Float[Array, " B"]


class VectorQuantizer(nn.Module):
    """The nearest of V vectors (VQ-VAE, arXiv:1711.00937).

    codes: V. width: D. commitment: weight of the loss that holds vectors near their code. decay: of
    the moving averages that are the codebook (arXiv:1711.00937, appendix A.1), in (0, 1); None for
    a codebook that is a parameter and learns by gradients (VQGAN, arXiv:2012.09841). revive: codes
    that are used less often per batch than this on average are put in the place of vectors of the
    batch (arXiv:2005.00341, section 3.1), at first all of them; 0 for never. For averages only.
    """

    codes: int
    width: int
    commitment: float = 0.25
    decay: float | None = 0.99
    revive: float = 0.5

    def setup(self):
        """The codebook, as parameter or as state of the collection batch_stats."""
        shape = (self.codes, self.width)
        if self.decay is None:
            bound = 1.0 / self.codes
            start = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
            self.codebook = self.param("codebook", start, shape)
            return
        start = lambda: jax.random.normal(jax.random.key(0), shape) / math.sqrt(self.width)
        self.averages = {
            "vectors": self.variable("batch_stats", "vectors", start),
            "counts": self.variable("batch_stats", "counts", jnp.zeros, shape[:1]),
            "sums": self.variable("batch_stats", "sums", jnp.zeros, shape),
        }

    def __call__(self, x: Float[Array, "B S D"], *, train: bool = False) -> Quantized:
        """The nearest codes; with train, averages move by one batch."""
        x = x.astype(jnp.float32)
        table = self._table()
        ids = nearest(x, table)
        found = table[ids]
        near = lambda a, b: jnp.mean(jnp.square(a - b), axis=(1, 2))
        loss = self.commitment * near(x, jax.lax.stop_gradient(found))
        if self.decay is None:
            loss += near(jax.lax.stop_gradient(x), found)
        elif train:
            key, given = self.make_rng("dropout"), jax.lax.stop_gradient(x)
            old = {name: held.value for name, held in self.averages.items()}
            new = averaged_codebook(old, given, ids, key, decay=self.decay, revive=self.revive)
            for name, held in self.averages.items():
                held.value = new[name]
        return Quantized(straight_through(x, found), ids, loss)

    def look_up(self, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """The vectors of ids."""
        return self._table()[ids]

    def _table(self) -> Float[Array, "V D"]:
        return self.codebook if self.decay is None else self.averages["vectors"].value


class FiniteScalarQuantizer(nn.Module):
    """Each channel rounded to one of a few levels: no codebook, no loss (FSQ, arXiv:2309.15505).

    levels: of each channel, at least 2; D is their number, V their product. (8, 5, 5, 5) has 1,000
    ids, the paper's advice for 2 ** 10.
    """

    levels: tuple[int, ...]

    @property
    def codes(self) -> int:
        """V."""
        return math.prod(self.levels)

    @property
    def width(self) -> int:
        """D."""
        return len(self.levels)

    def __call__(self, x: Float[Array, "B S D"], *, train: bool = False) -> Quantized:
        """The nearest point of the lattice, in [-1, 1]; the loss is 0."""
        levels = jnp.asarray(self.levels, jnp.float32)[None, None]
        # An even number of levels has none in the middle: the grid then lies half a step lower.
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
        half = (levels - 1) * (1 - 1e-3) / 2
        bounded = jnp.tanh(x.astype(jnp.float32) + jnp.arctanh(offset / half)) * half - offset
        places = jnp.round(bounded)
        middle = levels // 2
        digits = (places + middle).astype(jnp.int32)  # [B, S, D]
        ids = jnp.sum(digits * self._places()[None, None], axis=-1, dtype=jnp.int32)
        vectors = straight_through(bounded, places) / middle
        return Quantized(vectors, ids, jnp.zeros(len(x)))

    def look_up(self, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """The points that ids stand for."""
        levels = jnp.asarray(self.levels, jnp.int32)[None, None]
        digits = ids[..., None] // self._places()[None, None] % levels
        return (digits - levels // 2) / (levels // 2).astype(jnp.float32)

    def _places(self) -> Int[Array, " D"]:
        """What a step in each channel adds to the id."""
        return jnp.asarray([math.prod(self.levels[:i]) for i in range(self.width)], jnp.int32)


QUANTIZERS = {"vq": VectorQuantizer, "fsq": FiniteScalarQuantizer}


def straight_through(x: Float[Array, "B S D"], rounded: Float[Array, "B S D"]):
    """`rounded`, with the gradient of x."""
    return x + jax.lax.stop_gradient(rounded - x)


def nearest(x: Float[Array, "B S D"], table: Float[Array, "V D"]) -> Int[Array, "B S"]:
    """The row of the table that is nearest to each vector."""
    products = jnp.einsum("BSD,VD->BSV", x, table)
    lengths = jnp.sum(jnp.square(table), axis=-1)[None, None]  # [1, 1, V]
    return jnp.argmin(lengths - 2.0 * products, axis=-1).astype(jnp.int32)


def averaged_codebook(
    codebook: Codebook,
    x: Float[Array, "B S D"],
    ids: Int[Array, "B S"],
    key: Array,
    *,
    decay: float,
    revive: float,
) -> dict[str, Array]:
    """The codebook after a batch of vectors with these ids (arXiv:1711.00937, appendix A.1).

    A code whose count has fallen below `revive` becomes a vector of the batch drawn with the key,
    and counts as if it had been used `revive` times.
    """
    flat = constrain(x.reshape(-1, x.shape[-1]), BATCH)
    chosen = jax.nn.one_hot(ids.reshape(-1), len(codebook["counts"]))  # [B S, V]
    counts = decay * codebook["counts"] + (1 - decay) * jnp.sum(chosen, axis=0)
    sums = decay * codebook["sums"] + (1 - decay) * chosen.T @ flat
    if revive:
        dead = counts < revive * (1 - decay)
        drawn = flat[jax.random.randint(key, counts.shape, 0, len(flat))]
        counts = jnp.where(dead, 1 - decay, counts)
        sums = jnp.where(dead[:, None], (1 - decay) * drawn, sums)
    used = counts > 1e-8
    means = sums / jnp.where(used, counts, 1.0)[:, None]
    vectors = jnp.where(used[:, None], means, codebook["vectors"])
    return {"vectors": vectors, "counts": counts, "sums": sums}
