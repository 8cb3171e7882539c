"""What stands for a picture in a text, and how much room it gets."""

import pytest

from vlm_jax.data.picture_words import rounded, with_picture
from vlm_jax.data.schema import DataError
from vlm_jax.data.text import fill
from vlm_jax.tokenizers import make_tokenizer

WORDS = make_tokenizer({"name": "word"}, lambda: ["describe it row col"])
RUN = {"name": "run", "token": "[MASK]"}
TILES = {"name": "tiles", "token": "[MASK]", "count": 2, "around": "[EOS]", "whole": "it"}


def example(grid=None):
    return {"id": "", "image": "", "captions": [], "questions": []} | (
        {} if grid is None else {"grid": grid}
    )


def test_a_picture_is_a_run_of_tokens():
    template, room = with_picture("{picture}{bos}", RUN | {"count": 3}, WORDS, example())
    assert fill(WORDS, template, "") == [WORDS.mask] * 3 + [WORDS.bos] and room >= 3
    by_number = {"name": "run", "token": WORDS.mask, "count": 3}
    assert with_picture("{picture}{bos}", by_number, WORDS, example())[0] == template
    template, _ = with_picture("{picture}", RUN, WORDS, example((2, 4)))
    assert fill(WORDS, template, "") == [WORDS.mask] * 8
    assert with_picture("{bos}", None, WORDS, example()) == ("{bos}", 0)


def test_tiles_stand_in_rows_before_the_whole():
    template, room = with_picture("{picture}", TILES, WORDS, example((2, 1)))
    ids = fill(WORDS, template, "")
    assert ids.count(WORDS.mask) == 6 and ids.count(WORDS.eos) == 4 and room >= len(ids)
    assert "<row_1_col_1>{[MASK]*2}\n{[EOS]}<row_2_col_1>{[MASK]*2}\n\n{[EOS]}it" in template
    one, _ = with_picture("{picture}", TILES, WORDS, example((0, 0)))
    assert one == "{[EOS]}it{[MASK]*2}{[EOS]}"


def test_crops_stand_behind_the_whole_in_words():
    crops = {"name": "crops", "token": "[MASK]", "count": 2, "around": "<{picture}>"}
    found = lambda grid: with_picture("{picture}{bos}", crops, WORDS, example(grid))[0]
    assert found(None) == found((0, 0)) == "<{[MASK]*2}>{bos}"
    assert found((3, 1)).count("<{[MASK]*2}>") == 4 and found((1, 2)).count("{[MASK]*2}") == 3
    assert found((1, 2)).endswith("see better <{[MASK]*2}> <{[MASK]*2}>{bos}")


def test_a_picture_that_was_not_cut_and_an_unknown_token_are_named():
    with pytest.raises(DataError, match="set data.image.fit"):
        with_picture("{picture}", RUN, WORDS, example())
    with pytest.raises(ValueError, match="has no token 999"):
        with_picture("{picture}", RUN | {"token": 999}, WORDS, example((1, 1)))
    with pytest.raises(ValueError, match=r"unknown picture.name 'rum'.*'run'"):
        with_picture("{picture}", RUN | {"name": "rum"}, WORDS, example((1, 1)))


def test_lengths_are_few_and_hardly_larger():
    found = [rounded(count) for count in range(1, 5000)]
    assert all(n <= made <= max(n + 3, 1.25 * n) for n, made in enumerate(found, 1))
    assert len(set(found)) < 45
