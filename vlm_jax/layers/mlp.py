"""The one MLP of transformers, plain or gated."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, axis_sizes, constrain


class Mlp(nn.Module):
    """Two dense layers with an activation between: D -> width -> D.

    gated: the activation multiplies a second projection (GLU variants, arXiv:2002.05202). sliced:
    compute about D hidden units at a time, and again in the backward pass, so that no array is
    wider than the input; not with dropout, nor where hidden units are split over devices.
    """

    width: int
    activation: str = "gelu"
    bias: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    gated: bool = False
    sliced: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        """KeyError if the activation is not in layers.activations.ACTIVATIONS."""
        up = ["up", "gate"] if self.gated else ["up"]
        slices = self._slices(x.shape[-1], train)
        if slices > 1:
            return self._in_slices(x, up, slices)
        dense = partial(nn.Dense, use_bias=self.bias, dtype=self.dtype)
        hidden = self._hidden(*(dense(self.width, name=name)(x) for name in up))
        hidden = constrain(hidden, BATCH, LENGTH, SPLIT)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return dense(x.shape[-1], name="down")(hidden)

    def _hidden(self, up: Array, gate: Array | None = None) -> Float[Array, "B T _"]:
        activation = ACTIVATIONS[self.activation]
        return activation(up) if gate is None else activation(gate) * up

    def _slices(self, width: int, train: bool) -> int:
        """In how many slices the hidden units are computed."""
        if not self.sliced or self.is_initializing():
            return 1
        whole = (
            self.dropout and train,
            axis_sizes().get(SPLIT[0], 1) > 1,
            any(len(dense) > 1 + self.bias for dense in self.variables["params"].values()),  # LoRA
        )
        if any(whole):
            return 1
        most = max(1, self.width // width)
        return max(count for count in range(1, most + 1) if self.width % count == 0)

    @nn.nowrap
    def _in_slices(self, x: Array, up: list[str], slices: int) -> Float[Array, "B T D"]:
        own = jax.tree.map(lambda leaf: leaf.astype(self.dtype), self.variables["params"])

        def cut(leaf: Array, axis: int) -> Float[Array, "slices ..."]:
            shape = (*leaf.shape[:axis], slices, -1, *leaf.shape[axis + 1 :])
            return jnp.moveaxis(leaf.reshape(shape), axis, 0)

        def dense(x: Array, given: dict[str, Array]) -> Float[Array, "B T _"]:
            found = x @ given["kernel"]
            return found + given["bias"][None, None] if self.bias else found

        @partial(jax.checkpoint, prevent_cse=False)
        def add(total: Array, piece: Any) -> tuple[Float[Array, "B T D"], None]:
            entering, leaving = piece
            hidden = self._hidden(*(dense(x, given) for given in entering))
            hidden = constrain(hidden, BATCH, LENGTH)
            return total + jnp.matmul(hidden, leaving, preferred_element_type=jnp.float32), None

        x = x.astype(self.dtype)
        entering = [jax.tree.map(lambda leaf: cut(leaf, leaf.ndim - 1), own[name]) for name in up]
        pieces = entering, cut(own["down"]["kernel"], 0)
        total, _ = jax.lax.scan(add, jnp.zeros(x.shape, jnp.float32), pieces)
        total = total.astype(self.dtype)
        return total + own["down"]["bias"][None, None] if self.bias else total
