"""Token lists to fixed-length arrays, and the sequences that decoders and encoders read."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from vlm_jax.tokenizers import Tokenizer

Arrays = dict[str, Any]
"""Field name to NumPy array or scalar, as one example has them."""


TEMPLATE = "{prompt}{bos}"
"""What a decoder reads before its text, unless a task says otherwise: bos follows the prompt, so
that the first position to predict from is the same for every prompt.
"""


def pad(ids: Sequence[int], length: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `length` ids as i32[length], filled up, and bool[length] marking the real ones."""
    kept = np.asarray(ids[:length], np.int32)
    padded = np.full(length, fill, np.int32)
    padded[: len(kept)] = kept
    return padded, np.arange(length) < len(kept)


def encoder_text(
    tokenizer: Tokenizer, text: str, length: int, template: str | None = None
) -> Arrays:
    """A text between its special tokens as `text` i32[length] and `text_mask` bool[length]; a long
    text loses its end, not the tokens after it. template: another arrangement, see `fill`.
    """
    if template is not None:
        tokens, mask = pad(fill(tokenizer, template, text, length), length, tokenizer.pad)
        return {"text": tokens, "text_mask": mask}
    room = length - len(tokenizer.before) - len(tokenizer.after)
    ids = [*tokenizer.before, *tokenizer.encode(text)[:room], *tokenizer.after]
    tokens, mask = pad(ids, length, tokenizer.pad)
    return {"text": tokens, "text_mask": mask}


def decoder_prompt(
    tokenizer: Tokenizer, prompt: str, length: int | None = None, template: str = TEMPLATE
) -> Arrays:
    """What generation starts from: the template, filled. `tokens`, `tokens_mask` of `length`
    (default: as needed), `prefix` i32. template: see `fill`.
    """
    ids = fill(tokenizer, template, prompt, length)
    tokens, mask = pad(ids, length or len(ids), tokenizer.pad)
    return {"tokens": tokens, "tokens_mask": mask, "prefix": np.int32(mask.sum())}


def decoder_text(
    tokenizer: Tokenizer,
    prompt: str,
    text: str,
    length: int,
    prompt_length: int | None = None,
    template: str = TEMPLATE,
) -> Arrays:
    """Teacher forcing: the filled template, the text and eos, shifted by one between `tokens` and
    `targets`, both i32[length].

    `targets_mask` is True where a token of the text, or the eos, is to be predicted. prompt_length:
    the length of `decoder_prompt`. ValueError if the prompt leaves no room for two targets.
    """
    start = fill(tokenizer, template, prompt, prompt_length)
    if len(start) >= length:
        raise ValueError(
            f"a prompt of {len(start)} tokens leaves no room for the text in "
            f"length={length}: raise the task's length"
        )
    written = [*tokenizer.encode(text), tokenizer.eos]
    own = [False] * len(start) + [True] * len(written)
    arrays = teacher_forcing([*start, *written], own, length, tokenizer.pad)
    return arrays | {"prefix": np.int32(len(start))}


def teacher_forcing(ids: Sequence[int], own: Sequence[bool], length: int, fill: int = 0) -> Arrays:
    """Ids shifted by one between `tokens` and `targets`, both i32[length], with their masks.

    own: which of them the decoder is to write by itself, where `targets_mask` is True.
    """
    tokens, _ = pad(ids[:-1], length, fill)
    targets, real = pad(ids[1:], length, fill)
    predicted, _ = pad(own[1:], length)
    masks = {"tokens_mask": real, "targets_mask": predicted.astype(bool)}
    return {"tokens": tokens, "targets": targets} | masks


def fill(tokenizer: Tokenizer, template: str, prompt: str, length: int | None = None) -> list[int]:
    """Ids of a template such as "{<image>*256}{bos}answer en {prompt}{<0x0A>}".

    In braces stand the prompt, bos, eos, pad, the exact name of a token, or its number, perhaps
    repeated; whatever is between them is text, in which the names of special tokens stand for
    them. In the prompt they do not. A token that is given by its number is no part of the text:
    what follows it is read as the beginning of one. The prompt's ids are cut where all together
    would exceed `length`. ValueError for a token that the tokenizer lacks, or a length that the
    template alone exceeds.
    """
    parts = _parts(tokenizer, template)
    words = tokenizer.encode(prompt)
    if words == tokenizer.read(prompt):  # it names no special token
        whole = _read(tokenizer, [prompt if part is None else part for part in parts])
        if length is None or len(whole) <= length:
            return whole
    # By itself, what stands at the border of the prompt may be split in another way.
    around = parts.index(None) if None in parts else len(parts)
    before, after = (_read(tokenizer, part) for part in (parts[:around], parts[around + 1 :]))
    fixed = len(before) + len(after)
    if length is not None and fixed > length:
        raise ValueError(f"template {template!r} alone needs {fixed} of {length} tokens")
    words = words if length is None else words[: length - fixed]
    return [*before, *(words if None in parts else []), *after]


def fill_between(
    tokenizer: Tokenizer, template: str, texts: Sequence[str], pieces: Sequence[str]
) -> list[int]:
    """Ids of a template whose prompt is several texts with pieces of template between them, such as
    pictures in the midst of a sentence. ValueError as for `fill`, or without a {prompt}.
    """
    parts = _parts(tokenizer, template)
    if None not in parts:
        raise ValueError(f"template {template!r} has no {{prompt}}")
    around = parts.index(None)
    told = all(tokenizer.encode(text) == tokenizer.read(text) for text in texts)
    inside: list[Any] = [texts[0]] if told else tokenizer.encode(texts[0])
    for piece, text in zip(pieces, texts[1:], strict=True):
        inside += _parts(tokenizer, piece)
        inside += [text] if told else tokenizer.encode(text)
    every = (*parts[:around], *inside, *parts[around + 1 :])
    return _read(tokenizer, [part for part in every if part != ""])


def _parts(tokenizer: Tokenizer, template: str) -> list[str | int | None]:
    """A template's texts, special tokens among them, its other tokens' ids, None for the prompt."""
    parts: list[str | int | None] = []
    for number, piece in enumerate(re.split(r"\{(.*?)\}", template)):
        if number % 2 == 0:
            parts += [piece] if piece else []
        elif piece == "prompt":
            parts.append(None)
        else:
            index, times = _named(tokenizer, piece)
            spelled = index in tokenizer.special and not piece[0].isdigit()
            parts += [str(tokenizer.token(index)) if spelled else index] * times
    if parts.count(None) > 1:
        raise ValueError(f"template {template!r} has more than one {{prompt}}")
    return parts


def _read(tokenizer: Tokenizer, parts: Sequence[str | int | None]) -> list[int]:
    """Ids of texts and ids, neighbouring texts read as one."""
    ids: list[int] = []
    for named, group in groupby(parts, key=lambda part: isinstance(part, int)):
        found: list[Any] = list(group)
        ids += found if named else tokenizer.read("".join(found))
    return ids


def _named(tokenizer: Tokenizer, piece: str) -> tuple[int, int]:
    """Id and number of one pair of braces: "bos", "eos", "<image>", "<image>*256", "30522"."""
    name, _, times = piece.partition("*") if re.search(r"\*\d+$", piece) else (piece, "", "")
    known = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    if name in known:
        return known[name], int(times or 1)
    return int(name) if name.isdigit() else tokenizer.id_of(name), int(times or 1)
