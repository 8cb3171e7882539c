"""Token lists to fixed-length arrays, and the sequences that decoders and encoders read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_jax.tokenizers import Tokenizer

Arrays = dict[str, Any]
"""Field name to NumPy array or scalar, as one example has them."""


def pad(ids: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `length` ids as i32[length], filled up with 0, and bool[length] marking the real
    ones.
    """
    kept = np.asarray(ids[:length], np.int32)
    padded = np.zeros(length, np.int32)
    padded[: len(kept)] = kept
    return padded, np.arange(length) < len(kept)


def encoder_text(tokenizer: Tokenizer, text: str, length: int) -> Arrays:
    """bos, the text, eos as `text` i32[length] and `text_mask` bool[length]; a long text loses its
    end, not its eos.
    """
    ids = tokenizer.encode(text)[: length - 2]
    tokens, mask = pad([tokenizer.bos, *ids, tokenizer.eos], length)
    return {"text": tokens, "text_mask": mask}


def decoder_prompt(tokenizer: Tokenizer, prompt: str, length: int | None = None) -> Arrays:
    """What generation starts from: the prompt, then bos. `tokens`, `tokens_mask` of `length`
    (default: as needed), `prefix` i32.

    bos follows the prompt, so that the first position to predict the answer from is the same for
    every prompt.
    """
    ids = _prompt(tokenizer, prompt, length)
    tokens, mask = pad(ids, length or len(ids))
    return {"tokens": tokens, "tokens_mask": mask, "prefix": np.int32(mask.sum())}


def decoder_text(
    tokenizer: Tokenizer, prompt: str, text: str, length: int, prompt_length: int | None = None
) -> Arrays:
    """Teacher forcing: prompt, bos, text, eos, shifted by one between `tokens` and `targets`, both
    i32[length].

    `targets_mask` is True where a token of the text, or the eos, is to be predicted. prompt_length:
    that of `decoder_prompt`. ValueError if the prompt leaves no room for two targets.
    """
    start = _prompt(tokenizer, prompt, prompt_length)
    ids = [*start, *tokenizer.encode(text), tokenizer.eos]
    if len(start) >= length:
        raise ValueError(
            f"a prompt of {len(start)} tokens leaves no room for the text in "
            f"length={length}: raise the task's length"
        )
    tokens, _ = pad(ids[:-1], length)
    targets, real = pad(ids[1:], length)
    predicted = real & (np.arange(length) >= len(start) - 1)
    return {
        "tokens": tokens,
        "tokens_mask": real,
        "prefix": np.int32(len(start)),
        "targets": targets,
        "targets_mask": predicted,
    }


def _prompt(tokenizer: Tokenizer, prompt: str, length: int | None) -> list[int]:
    """The prompt's ids, cut so that they and the bos after them are at most `length`."""
    ids = tokenizer.encode(prompt)
    return [*(ids if length is None else ids[: length - 1]), tokenizer.bos]
