"""The source of rendered words: splits that share nothing they must not, questions, errors."""

import numpy as np
import pytest

from vlm_jax.data import rendered_words
from vlm_jax.data.phrases import held_out
from vlm_jax.data.rendered_words import FONTS, OTHER_FONTS, SPLITS
from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.sources import make_source


def source(split, **options):
    return make_source(dict(name="rendered_words", split=split, longest=16) | options)


@pytest.mark.parametrize("split", SPLITS)
def test_examples(split):
    made = source(split, length=40)
    assert len(made) == 40 and made.name == f"rendered_words/{split}"
    for index in range(40):
        example = validate(made[index], split)
        text, font = example["captions"][0], example["image"].font
        assert font in (OTHER_FONTS if split in ("test_fonts", "test_both") else FONTS)
        assert held_out(text) == (split in ("test_words", "test_both"))
        letters = [region["labels"]["letter"] for region in example["regions"]]
        assert "".join(letters) == text.replace(" ", "")
        for region in example["regions"]:
            assert text[int(region["labels"]["number"]) - 1] == region["labels"]["letter"]
    assert example["image"]().shape == (64, 64, 3)
    assert source(split, size=(32, 128), lines=1)[0]["image"]().shape == (32, 128, 3)
    with pytest.raises(IndexError):
        made[40]


def test_questions_read_and_translate():
    made = source("test", length=800)
    known = {made[i]["captions"][0]: made[i]["questions"] for i in range(800)}
    assert known["white heart"] == [
        {"question": "read", "answers": ["white heart"], "type": "read"},
        {"question": "in german", "answers": ["weißes herz"], "type": "de"},
        {"question": "in french", "answers": ["cœur blanc"], "type": "fr"},
        {"question": "in spanish", "answers": ["corazón blanco"], "type": "es"},
    ]
    one = source("test", languages=("it",))[0]
    assert [question["question"] for question in one["questions"]] == ["read", "in italian"]


def test_made_up_words_can_only_be_read_and_are_for_training():
    asked = lambda made, count: [len(made[i]["questions"]) for i in range(count)]
    counts = asked(source("train"), 300)
    assert set(counts) == {1, 4} and 0.3 < counts.count(1) / 300 < 0.5
    assert set(asked(source("train", made_up=0.0), 50)) == set(asked(source("test"), 50)) == {4}


def test_the_same_seed_gives_the_same_and_splits_differ():
    picture = lambda **options: source(**options)[5]["image"]()
    np.testing.assert_array_equal(picture(split="test"), picture(split="test"))
    assert (picture(split="test") != picture(split="test", seed=1)).any()
    assert (picture(split="test") != picture(split="train")).any()


def test_labels():
    kinds = rendered_words.kinds()
    assert kinds["letter"][2] == "c" and kinds["number"][2] == "3"


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="split='tests' must be one of train, test"):
        source("tests")
    with pytest.raises(ValueError, match=r"unknown language 'xx'; .*valid: de, es"):
        source("test", languages=("xx",))
    with pytest.raises(ValueError, match="unknown fonts 'comic'"):
        source("test", fonts=("comic",))
    with pytest.raises(DataError, match="mine.ttf"):
        source("test", other_fonts=(str(tmp_path / "mine.ttf"),))
    with pytest.raises(ValueError, match="must not share a font"):
        source("test", other_fonts=("stix",))
    with pytest.raises(TypeError, match="did you mean 'languages'"):
        source("test", language=("de",))
    with pytest.raises(DataError, match="no phrase has at most longest=1"):
        source("test", longest=1)
    with pytest.raises(DataError, match="does not fit 64 x 64 pixels"):
        source("test", smallest=40)[0]["image"]()
