"""Words and short phrases in English with their translations: the names of emoji.

They come from PyPI `emoji` (BSD; the names are Unicode CLDR's), which has them in 14 languages:
with
at most 20 characters, that gives 1,124 phrases in four of them, in lower case, without accents in
English. What is held out
is whole words, by the SHA-1 bucket of `data.emoji`: a phrase with such a word in it is held out, so
no word of bucket 3 is ever seen in training, not even inside another phrase. Emoji whose hexcode is
in the reserved bucket 7 give no phrases either.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vlm_jax.data.emoji import RESERVED, UNSEEN, bucket, hexcode
from vlm_jax.data.schema import DataError
from vlm_jax.kwargs import lookup

LANGUAGES = {
    "de": "german",
    "es": "spanish",
    "fr": "french",
    "id": "indonesian",
    "it": "italian",
    "pt": "portuguese",
    "tr": "turkish",
}
"""Codes of the languages, in Latin letters, that there are translations into, and their names."""

LONGEST = 20
"""Most characters of a phrase, unless told otherwise."""

_PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*")
# A flag is named after its country in English alone; elsewhere the name begins with "flag".
_FLAG = re.compile(r"^(flagge|bandera|drapeau|bendera|bandiera|bandeira|bayrak):? ")
_FULLY_QUALIFIED = 2


class Phrase(NamedTuple):
    """english: lower-case letters and single spaces. translations: by code of the language."""

    english: str
    translations: Mapping[str, str]


@lru_cache(maxsize=8)
def phrases(languages: Sequence[str], longest: int = LONGEST) -> tuple[Phrase, ...]:
    """All phrases of at most `longest` characters in every language, in alphabetical order.

    languages: a tuple of codes. ValueError for an unknown one; DataError, with the command, without
    the package.
    """
    for code in languages:
        lookup(LANGUAGES, code, "language")
    found = {}
    for characters, names in _names(languages).items():
        english = _tidy(names["en"])
        key = hexcode("-".join(f"{ord(character):X}" for character in characters))
        usual = names["status"] == _FULLY_QUALIFIED and "skin tone" not in english
        if not usual or not _PLAIN.fullmatch(english) or bucket(key) == RESERVED:
            continue
        others = {code: _FLAG.sub("", _tidy(names.get(code, ""))) for code in languages}
        if all(0 < len(text) <= longest for text in (english, *others.values())):
            found.setdefault(english, Phrase(english, others))
    return tuple(found[english] for english in sorted(found))


def held_out(english: str) -> bool:
    """Whether a phrase has a word that training must never show."""
    return any(bucket(word) == UNSEEN for word in english.split())


def made_up(rng: np.random.Generator, words: Sequence[str]) -> str:
    """One or two words that nobody knows, such as "grindow": the beginning of one and the end of
    another of `words`, never a held-out word.
    """
    return " ".join(_made_up_word(rng, words) for _ in range(rng.integers(1, 3)))


def _made_up_word(rng: np.random.Generator, words: Sequence[str]) -> str:
    while True:
        head, tail = (words[int(rng.integers(len(words)))] for _ in range(2))
        word = head[: rng.integers(1, 6)] + tail[-rng.integers(1, 6) :]
        if not held_out(word):
            return word


def _tidy(name: str) -> str:
    """A name such as ":man’s_shoe:" as "man's shoe", in lower case."""
    return name.strip(":").replace("_", " ").replace("’", "'").lower()


def _names(languages: Sequence[str]) -> Mapping[str, Mapping]:
    """The package's table: emoji -> its status, and its name by language."""
    try:
        import emoji
    except ImportError:
        raise DataError(
            "the phrases are names of emoji, which need a package; run: pip install emoji"
        ) from None
    emoji.config.load_language(list(languages))
    return emoji.EMOJI_DATA
