import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_jax.tokenizers import make_tokenizer

TEXTS = [
    "A red circle is left of a blue square.",
    "a red square, a red square",
    "it's the boy's t-shirt",
    "naïve café über 東京 Straße",
    "zebra yak xylophone wolf viper",
]
HARD = [
    "",
    " ",
    "a\n\tb  c ",
    "naïve 東京",
    "👩‍⚕️ 😀",
    "\x00\x7f",
    "Ünïcode e\u0301",
    "[EOS]",
    "▁Ġ##a",
]


def made(kind, texts=TEXTS, **arguments):
    return make_tokenizer({"name": kind, **arguments}, lambda: iter(texts))


def never():
    raise AssertionError("the texts are not needed")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_bytes_return_every_text_exactly(kind):
    tokenizer = made(kind, size=300) if kind == "bpe" else make_tokenizer({"name": kind}, never)

    @settings(deadline=None, max_examples=60, derandomize=True)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def check(text):
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_byte_tokenizer_has_one_token_per_utf8_byte():
    tokenizer = made("byte")
    assert tokenizer.size == 261
    assert [len(tokenizer.encode(text)) for text in HARD] == [len(t.encode()) for t in HARD]


def test_words_are_lower_case_and_keep_apostrophes_and_hyphens():
    tokenizer = made("word")
    pieces = lambda text: [tokenizer.token(i) for i in tokenizer.encode(text)]
    assert pieces("It's a T-Shirt, a RED\nsquare.") == [
        *("it's", "a", "t-shirt", ",", "a", "red", "square", ".")
    ]
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0].lower()
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("café") != [tokenizer.unknown]


def test_words_are_numbered_by_frequency_then_spelling():
    tokenizer = made("word", ["b d", "b c c", "a"])
    assert [tokenizer.token(i) for i in range(5, tokenizer.size)] == ["b", "c", "a", "d"]
    assert made("word", ["b d", "b c c", "a"], min_count=2).size == 7
    largest = made("word", ["b d", "b c c", "a"], size=6)
    assert (largest.size, largest.token(5)) == (6, "b")


def test_unknown_words_stay_unknown_and_do_not_hide_others():
    tokenizer = made("word")
    ids = tokenizer.encode("a quokka square")
    assert ids[1] == tokenizer.unknown
    assert tokenizer.decode(ids) == "a square"


def test_subwords_spell_new_words_out_of_known_pieces():
    for kind in ("bpe", "wordpiece"):
        tokenizer = made(kind, size=400, min_count=1)
        ids = tokenizer.encode("redsquare")
        assert tokenizer.unknown not in ids
        assert 1 < len(ids) < 9  # neither one unknown word nor its letters
        assert tokenizer.decode(ids) == "redsquare"
    assert tokenizer.encode("λ") == [tokenizer.unknown]


def test_frequent_text_becomes_shorter_with_a_larger_vocabulary():
    lengths = [
        len(made("bpe", size=size, min_count=1).encode(TEXTS[1])) for size in (261, 270, 300)
    ]
    assert lengths[0] == len(TEXTS[1]) > lengths[1] > lengths[2]


def test_lower_casing_is_a_choice():
    assert made("bpe").encode("Red") != made("bpe").encode("red")
    lower = made("bpe", lower=True)
    assert lower.encode("Red") == lower.encode("red")
    cased = made("wordpiece", lower=False, min_count=1)
    assert cased.decode(cased.encode("A red")) == "A red"


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece"])
def test_a_vocabulary_never_outgrows_its_size_and_too_small_a_size_is_an_error(kind):
    assert made(kind, size=265).size <= 265
    with pytest.raises(ValueError, match="size=5 is too small"):
        made(kind, size=5)


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece"])
def test_no_texts_are_an_error(kind):
    with pytest.raises(ValueError, match="no texts"):
        made(kind, [])


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece"])
def test_training_in_another_process_gives_the_same_file(kind, tmp_path):
    # Ties are everywhere in these texts, and every process has other hash seeds.
    code = (
        "from vlm_jax.tokenizers import make_tokenizer;"
        "texts = [''.join(chr(97 + (i * k) %% 26) for k in range(1, 9)) for i in range(200)];"
        "config = {'name': %r, 'size': 320, 'min_count': 1};"
        "make_tokenizer(config, lambda: texts).save(%r)"
    )
    for seed in ("1", "2", "3"):
        path = str(tmp_path / f"{seed}.json")
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        subprocess.run([sys.executable, "-c", code % (kind, path)], env=environment, check=True)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
