"""A handful of compiled programs for prompts and texts of every length."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlm_jax.decode.search import Generated, Search

SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""What lengths are rounded up to; above the last, to multiples of it."""

Write = Callable[[Any, Mapping[str, Any], Search], Generated]
"""(variables, batch, search) -> texts, to be compiled with a static search. batch: "tokens" and
"tokens_mask" [B, P], "limit" i32[B], and whatever else it was called with."""


def round_up(length: int, sizes: Sequence[int] = SIZES) -> int:
    """The smallest of `sizes`, in ascending order, that is not below `length`.

    5 becomes 8, and 300 becomes 512.
    """
    return next((size for size in sizes if length <= size), -(-length // sizes[-1]) * sizes[-1])


def pack(tokens: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The real tokens of each row, in order, padded on the right to `size`; the same of the mask.

    tokens = 0 5 6, mask = 0 1 1, size = 4 becomes 5 6 0 0
    """
    order = np.argsort(~mask, axis=1, kind="stable")
    packed = np.take_along_axis(np.where(mask, tokens, 0), order, axis=1)[:, :size]
    real = np.take_along_axis(mask, order, axis=1)[:, :size]
    missing = ((0, 0), (0, size - packed.shape[1]))
    return np.pad(packed, missing), np.pad(real, missing)


@dataclasses.dataclass
class Programs:
    """The programs compiled so far, as lines that say for what; each is logged when it is made."""

    made: list[str] = dataclasses.field(default_factory=list)

    def note(self, batch: int, prompt: int, search: Search) -> None:
        """To be called where a program is traced, which happens once for each."""
        kind = "samples" if search.sample else "beams"
        self.made.append(
            f"batch {batch}, prompt {prompt}, length {search.max_length}, "
            f"{kind} {search.hypotheses}"
        )
        logging.info("decoding program %d: %s", len(self.made), self.made[-1])


class Writer:
    """Calls `write` compiled once for each (batch size, prompt bucket, length bucket, search).

    prompts, lengths: the buckets, ascending. context: most tokens of prompt and text together that
    the decoder can read, or None; no bucket goes beyond it. The bucket depends on the longest real
    prompt of a batch, so processes that share a mesh must be given prompts of one length.
    """

    def __init__(
        self,
        write: Write,
        *,
        prompts: Sequence[int] = SIZES,
        lengths: Sequence[int] = SIZES,
        context: int | None = None,
    ):
        self.prompts, self.lengths, self.context = prompts, lengths, context
        self.programs = Programs()

        def traced(variables: Any, batch: Mapping[str, Any], search: Search) -> Generated:
            size, prompt = batch["tokens"].shape
            self.programs.note(size, prompt, search)
            return write(variables, batch, search)

        self._compiled = jax.jit(traced, static_argnums=2)

    def __call__(self, variables: Any, batch: Mapping[str, Any], search: Search) -> Generated:
        """Texts for a batch with NumPy "tokens" and "tokens_mask" [B, P], padded on either side.

        ValueError if prompt and text together do not fit `context`.
        """
        longest = max(int(np.max(np.sum(batch["tokens_mask"], axis=1))), 1)
        prompt, length = self._buckets(longest, search.max_length)
        tokens, mask = pack(batch["tokens"], batch["tokens_mask"], prompt)
        limit = np.full(len(tokens), search.max_length, np.int32)
        batch = {**batch, "tokens": tokens, "tokens_mask": mask, "limit": limit}
        wide = dataclasses.replace(search, max_length=length)
        found = self._compiled(variables, batch, wide)
        cut = search.max_length
        return found._replace(tokens=found.tokens[..., :cut], logprobs=found.logprobs[..., :cut])

    def _buckets(self, prompt: int, length: int) -> tuple[int, int]:
        if self.context is None:
            return round_up(prompt, self.prompts), round_up(length, self.lengths)
        if prompt + length - 1 > self.context:  # the last token is not read
            raise ValueError(
                f"a prompt of {prompt} tokens and {length} new ones do not fit the decoder's "
                f"context of {self.context}: shorten the prompt or lower max_length"
            )
        prompt = min(round_up(prompt, self.prompts), self.context - (length - 1))
        return prompt, min(round_up(length, self.lengths), self.context - prompt + 1)
