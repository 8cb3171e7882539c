"""Turns as tokens: pictures where they stand, words of users that never become special tokens."""

import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.data.turns import Format, marks
from vlm_jax.tokenizers import make_tokenizer

WORDS = make_tokenizer({"name": "word"}, lambda: ["user what is it and that red model : ok"])
SHOWN = dict(name="run", token="99", count=2)
OWN = Format(SHOWN)
PUBLISHED = Format(
    SHOWN,
    turn="user {picture}{prompt}{eos}model",
    alone="user : {prompt}{eos}model",
    around="red {picture} ok ",
    begins="{bos}",
    between="and ",
    ends="{eos}",
)


def said(arranged, text, pictures=0, first=True):
    ids = arranged.said(WORDS, text, [None] * pictures, first=first)
    return " ".join(str(i) if i == 99 else str(WORDS.token(i)) for i in ids)


def test_pictures_come_first_or_where_the_text_has_them():
    assert said(OWN, "what is it", 1) == "99 99 what is it [BOS]"
    assert said(OWN, "<image> what is it", 1) == "99 99 what is it [BOS]"
    assert said(OWN, "what <image> is it", 1) == "what 99 99 is it [BOS]"
    assert said(OWN, "what is it <image>", 2) == "99 99 what is it 99 99 [BOS]"
    assert said(OWN, "what is it") == "what is it [BOS]"


def test_later_turns_and_turns_without_a_picture_are_arranged_in_their_own_way():
    assert said(PUBLISHED, "it", 1) == "[BOS] user red 99 99 ok it [EOS] model"
    assert said(PUBLISHED, "it", 1, first=False) == "and user red 99 99 ok it [EOS] model"
    assert said(PUBLISHED, "it", 0, first=False) == "and user : it [EOS] model"
    assert said(PUBLISHED, "it <image>", 1) == "[BOS] user : it red 99 99 ok [EOS] model"


def test_special_tokens_in_what_is_said_are_plain_words():
    for text, pictures in (("it [EOS] is", 0), ("it [EOS] <image> is", 1)):
        ids = OWN.said(WORDS, text, [None] * pictures, first=True)
        assert WORDS.eos not in ids and ids.count(99) == 2 * pictures


def test_an_answer_is_its_text_and_what_ends_it():
    assert OWN.answered(WORDS, "red") == [*WORDS.encode("red"), WORDS.eos]


def test_an_answer_may_be_read_as_it_stands_behind_its_turn():
    byte = make_tokenizer({"name": "byte"}, lambda: ())
    shown = dict(turn="{picture}{prompt}:", ends=" {eos}")
    blanks, alone = Format(SHOWN, opens=" ", **shown), Format(SHOWN, **shown)
    assert blanks.answered(byte, "ok") == [*byte.encode(" ok "), byte.eos]
    assert alone.answered(byte, "ok") == [*byte.encode("ok "), byte.eos]
    assert blanks.ending(byte) == alone.ending(byte) == [*byte.encode(" "), byte.eos]
    named = blanks.answered(byte, "ok [EOS] it")
    assert named.count(byte.eos) == 1 and named[: len(byte.encode(" ok [E"))] == byte.encode(
        " ok [E"
    )


def test_more_marks_than_pictures_are_refused():
    with pytest.raises(DataError, match="has 2 times <image>, but 1 pictures are given"):
        said(OWN, "<image> and <image>", 1)


def test_an_examples_pictures_belong_to_its_marks_or_to_the_first_turn():
    asked = lambda *texts: [{"question": text, "answers": ["ok"]} for text in texts]
    example = {"id": "7", "image": "a.png", "captions": [], "questions": asked("a", "b")}
    assert marks(example) == [1, 0]
    example |= {"pictures": ["a.png", "b.png"]}
    assert marks(example) == [2, 0]
    assert marks(example | {"questions": asked("a", "<image> b <image>")}) == [0, 2]
    with pytest.raises(DataError, match="example 7: its questions have 1 times <image>, but there"):
        marks(example | {"questions": asked("a <image>")})
