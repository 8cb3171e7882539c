"""ptb_golden.jsonl and ptb_generated.jsonl hold sentences of our own, written by hand and by
ptb_sentences.py, and what the official Java tokenizer makes of them.

`tests/metrics/make_goldens.py` says how the answers are recomputed.
"""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_jax.metrics.ptb_tokenizer import PUNCTUATION, ptb_tokenize

FOLDER = pathlib.Path(__file__).parent
captions = st.text(st.sampled_from("abAB 19.,'’\"()-!?/$&@:;é日☺😀\u00a0\u00ad"), max_size=40)


@pytest.mark.parametrize(("name", "least"), [("ptb_golden", 300), ("ptb_generated", 2000)])
def test_every_golden_sentence_is_tokenized_as_by_the_official_tokenizer(name, least):
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["text"] for row in rows}) >= least
    wrong = {row["text"]: (ptb_tokenize(row["text"]), row["tokens"]) for row in rows}
    assert {text: pair for text, pair in wrong.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", ""),
        (" . ", ""),
        ("two (2) dogs", "two -lrb- 2 -rrb- dogs"),
        ("the surfer's board", "the surfer 's board"),
        ("no!! yes!", "no !! yes"),
        ("5 1/2 pies", "5\u00a01/2 pies"),
        ("a 😀 face", "a face"),
        ("one\ntwo\u2028three", "one two three"),
        ("call (555) 123-4567", "call -lrb-555-rrb-\u00a0123-4567"),
        ("at U.S. The man", "at u.s. the man"),
        ("plan B. The man", "plan b the man"),
        ("cannot 'tis gonna", "can not 't is gon na"),
    ],
)
def test_documented_behaviour(caption, tokens):
    assert ptb_tokenize(caption) == tokens


@given(captions)
def test_output_is_lower_case_without_punctuation_or_empty_tokens(caption):
    tokens = ptb_tokenize(caption).split(" ")
    assert tokens == [""] or all(token and token not in PUNCTUATION for token in tokens)
    assert all(token == token.lower() for token in tokens)


@given(captions)
def test_surrounding_space_does_not_matter(caption):
    assert ptb_tokenize(f"  {caption} ") == ptb_tokenize(caption)


@given(st.lists(st.sampled_from(["a", "dog", "Cat", "cannot", "no", "St", "runs"]), min_size=1))
def test_a_final_period_of_an_ordinary_word_vanishes(words):
    assert ptb_tokenize(" ".join([*words, "dog."])) == ptb_tokenize(" ".join([*words, "dog"]))


def test_a_caption_must_be_a_string():
    with pytest.raises(TypeError, match="a dog"):
        ptb_tokenize(["a dog"])
