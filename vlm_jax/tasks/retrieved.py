"""What a task makes of the texts that were retrieved for a picture: words before its prompt, or
Features beside the picture's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_jax import kwargs
from vlm_jax.data.schema import Example
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Neighbours:
    """k: most texts of `example["retrieved"]` that are used; an example with fewer, or without the
    key, is as good.

    to: "prompt", the decoder reads them (SmallCap, arXiv:2209.15323, section 3.2), or "memory", the
    text encoder does, and what reads the picture's Features finds them beside those. length: tokens
    kept of each text. between: what stands between two of them in a prompt. fewer: how often, in
    [0, 1], training uses a random number of them, 0 to k, so that any number will do later.
    """

    k: int = 4
    to: str = "prompt"
    length: int = 16
    between: str = "\n\n"
    fewer: float = 0.0

    def __post_init__(self):
        """ValueError for another `to`, or a k or length below 1."""
        if self.to not in ("prompt", "memory"):
            raise ValueError(f'retrieved.to={self.to!r}: choose "prompt" or "memory"')
        if self.k < 1 or self.length < 1:
            raise ValueError(
                f"retrieved.k={self.k} and retrieved.length={self.length} must be at least 1; "
                "leave `retrieved` out for a task without neighbours"
            )

    def used(self, example: Example, rng: np.random.Generator | None) -> list[str]:
        """The example's neighbours, nearest first; with rng perhaps fewer."""
        count = self.k
        if rng is not None and self.fewer and rng.random() < self.fewer:
            count = int(rng.integers(self.k + 1))
        given: Any = example
        return list(given.get("retrieved", ())[:count])

    def prompt(self, tokenizer: Tokenizer, texts: list[str]) -> str:
        """The texts one after the other, each cut to its length; empty if they go elsewhere."""
        if self.to != "prompt":
            return ""
        return self.between.join(_cut(tokenizer, text, self.length) for text in texts)

    def room(self, tokenizer: Tokenizer) -> int:
        """Most tokens of `prompt`."""
        if self.to != "prompt":
            return 0
        return self.k * (self.length + len(tokenizer.encode(self.between)))

    def arrays(self, tokenizer: Tokenizer, texts: list[str]) -> Arrays:
        """`retrieved` i32[k, length] and `retrieved_mask` bool[k, length] for the text encoder;
        nothing if they go into the prompt.
        """
        if self.to != "memory":
            return {}
        rows = [encoder_text(tokenizer, text, self.length) for text in texts]
        empty = {
            name: np.zeros_like(x) for name, x in encoder_text(tokenizer, "", self.length).items()
        }
        rows += [empty] * (self.k - len(rows))
        tokens, mask = (np.stack([row[name] for row in rows]) for name in ("text", "text_mask"))
        return {"retrieved": tokens, "retrieved_mask": mask}


def neighbours(config: Mapping[str, Any] | None) -> Neighbours | None:
    """The `retrieved` section of a task; None if there is none. TypeError for an unknown key."""
    return None if config is None else kwargs.call(Neighbours, config, "retrieved")


def _cut(tokenizer: Tokenizer, text: str, length: int) -> str:
    ids = tokenizer.encode(text)
    return text if len(ids) <= length else tokenizer.decode(ids[:length])
