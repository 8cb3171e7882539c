"""Recurrent stacks: LSTM (Hochreiter and Schmidhuber, 1997) and GRU (arXiv:1406.1078) layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PyTree

from vlm_jax.layers.constraints import BATCH, constrain

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}

Carry = PyTree[Float[Array, "..."]]
"""(c, h) of an LSTM, h of a GRU; each [L, B, H], where L counts layers times directions."""


class _Direction(nn.Module):
    """One layer in one direction; positions that are not real leave the carry as it is."""

    hidden: int
    cell: str
    reverse: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], real: Bool[Array, "B T"], carry: Carry
    ) -> tuple[Carry, Float[Array, "B T H"]]:
        def step(cell, carry, inputs):
            x, real = inputs  # [B, D], [B, 1]
            new, _ = cell(carry, x)
            carry = jax.tree.map(lambda after, before: jnp.where(real, after, before), new, carry)
            return carry, output(carry)

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=self.reverse,
        )
        cell = CELLS[self.cell](self.hidden, dtype=self.dtype, name=self.cell)
        return scan(cell, carry, (x, real[..., None]))


def output(carry: Carry) -> Float[Array, "... H"]:
    """The h of a carry: what the layer above, or a decoder, reads."""
    return carry[1] if isinstance(carry, tuple) else carry


class Recurrent(nn.Module):
    """`layers` recurrent layers over [B, T, D].

    hidden: H, per direction. cell: "lstm" or "gru". bidirectional: every layer also reads backwards
    and hands on both states, so the output has 2 H channels. dropout: on what enters each layer but
    the first (arXiv:1409.2329). A position that is not real changes nothing, wherever it stands.
    """

    hidden: int
    layers: int = 1
    cell: str = "lstm"
    bidirectional: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        real: Bool[Array, "B T"] | None = None,
        carry: Carry | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T H"], Carry]:
        """States of the last layer at every position, and the carry after the last real one.

        real defaults to everything, carry to `empty_carry(B)`; row l * directions + r of a carry is
        layer l forwards (r = 0) or backwards (r = 1). At a position that is not real the state is
        that of the last real one before it, in reading direction. ValueError for an unknown cell.
        """
        if self.cell not in CELLS:
            raise ValueError(f"unknown cell {self.cell!r}: choose one of {sorted(CELLS)}")
        real = jnp.ones(x.shape[:2], bool) if real is None else real
        carry = self.empty_carry(x.shape[0]) if carry is None else carry
        x, carries = constrain(x.astype(self.dtype), BATCH), []
        for layer in range(self.layers):
            if layer:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            states = []
            for reverse in self._directions():
                row = len(carries)
                before = jax.tree.map(lambda leaf, row=row: leaf[row], carry)
                name = f"layer_{layer}_{'backward' if reverse else 'forward'}"
                read = _Direction(self.hidden, self.cell, reverse, self.dtype, name=name)
                after, read_states = read(x, real, before)
                carries.append(after)
                states.append(read_states)
            x = constrain(jnp.concatenate(states, axis=-1), BATCH)  # [B, T, H or 2 H]
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)

    def empty_carry(self, batch: int) -> Carry:
        """Zeros [L, B, H]: where every sequence starts."""
        shape = (self.layers * len(self._directions()), batch, self.hidden)
        zeros = jnp.zeros(shape, self.dtype)
        return (zeros, zeros) if self.cell == "lstm" else zeros

    def last_state(self, carry: Carry) -> Float[Array, "B H"]:
        """The last layer's state after the whole sequence, both directions side by side."""
        h = output(carry)[-len(self._directions()) :]  # [directions, B, H]
        return jnp.concatenate(list(h), axis=-1)

    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.bidirectional else (False,)
