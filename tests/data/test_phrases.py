"""Names of emoji as phrases: what they look like, their translations, and what is held out."""

import re
import sys

import numpy as np
import pytest

from vlm_jax.data.phrases import held_out, made_up, phrases
from vlm_jax.data.schema import DataError

KNOWN = phrases(("de", "fr", "es"))


def test_counts_and_form():
    assert len(KNOWN) > 1000
    texts = [text for phrase in KNOWN for text in (phrase.english, *phrase.translations.values())]
    assert all(0 < len(text) <= 20 and text == text.lower() for text in texts)
    assert all(re.fullmatch("[a-z]+( [a-z]+)*", phrase.english) for phrase in KNOWN)
    assert [phrase.english for phrase in KNOWN] == sorted({phrase.english for phrase in KNOWN})


def test_translations():
    known = {phrase.english: phrase.translations for phrase in KNOWN}
    assert known["grey heart"] == {"de": "graues herz", "fr": "cœur gris", "es": "corazón gris"}
    assert known["germany"] == {"de": "deutschland", "fr": "allemagne", "es": "alemania"}


def test_shorter_phrases_are_some_of_the_longer():
    short = phrases(("de",), 8)
    assert {p.english for p in short} < {p.english for p in phrases(("de",))}
    assert max(len(text) for p in short for text in (p.english, *p.translations.values())) == 8


def test_held_out_words_occur_in_no_phrase_of_the_others():
    other = [phrase.english for phrase in KNOWN if held_out(phrase.english)]
    seen = {w for phrase in KNOWN if not held_out(phrase.english) for w in phrase.english.split()}
    assert 0.05 < len(other) / len(KNOWN) < 0.2
    assert all(set(text.split()) - seen for text in other)


def test_made_up_words_are_neither_known_nor_held_out():
    words = sorted({word for phrase in KNOWN for word in phrase.english.split()})
    texts = [made_up(np.random.default_rng(seed), words) for seed in range(300)]
    assert not any(held_out(text) for text in texts)
    assert all(re.fullmatch("[a-z]{2,10}( [a-z]{2,10})?", text) for text in texts)
    new = [text for text in texts if not set(text.split()) & set(words)]
    assert len(new) > 200 and len(set(texts)) > 290


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown language 'dee'; did you mean 'de'"):
        phrases(("dee",))
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(DataError, match="pip install emoji"):
        phrases(("it",))
