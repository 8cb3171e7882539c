"""Tokenizers by name: `make_tokenizer({"name": "word", "min_count": 2}, texts)`."""

from collections.abc import Mapping
from typing import Any

from vlm_jax import kwargs
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.tokenizers.tokenizer import Tokenizer
from vlm_jax.tokenizers.training import Texts, bpe, byte, word, wordpiece

__all__ = ["KINDS", "Texts", "Tokenizer", "make_tokenizer"]


def file(texts: Texts, *, path: str, roles: Mapping[str, str] | None = None) -> Tokenizer:
    """A tokenizer.json, or a file written by `Tokenizer.save`; see `Tokenizer.load`."""
    del texts
    return Tokenizer.load(path, roles)


def published(texts: Texts, *, folder: str) -> Tokenizer:
    """The tokenizer of a published checkpoint folder."""
    del texts
    return read_tokenizer(folder)


KINDS = {
    "word": word,
    "byte": byte,
    "bpe": bpe,
    "wordpiece": wordpiece,
    "file": file,
    "published": published,
}
"""The functions behind a config's tokenizer names; each says in its docstring which keys it
takes."""


def make_tokenizer(config: Mapping[str, Any], texts: Texts) -> Tokenizer:
    """The tokenizer of a config {"name": kind, **arguments}.

    texts: goes through the training texts when called; not called by kinds that need none ("byte",
    "file"). Raises ValueError for an unknown name and TypeError for an unknown key, each with a
    suggestion.
    """
    return kwargs.build(KINDS, config, "tokenizer", texts=texts)
