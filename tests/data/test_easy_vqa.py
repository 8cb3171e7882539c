import importlib.util
import json
import sys

import pytest
from PIL import Image

from vlm_jax.data.easy_vqa import EasyVQA
from vlm_jax.data.schema import DataError, validate

ROWS = [
    ["what is the blue shape?", "rectangle", 1],
    ["is there a red shape?", "no", 0],
    ["does the image contain a rectangle?", "yes", 1],
]


@pytest.fixture
def folder(tmp_path):
    """A data folder laid out as in the package easy-vqa."""
    images = tmp_path / "test" / "images"
    images.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(images / f"{number}.png")
    (tmp_path / "test" / "questions.json").write_text(json.dumps(ROWS))
    return str(tmp_path)


def test_one_example_per_picture_with_its_questions_and_their_types(folder):
    source = EasyVQA("test", folder)
    assert len(source) == 2 and source.name == "easy_vqa/test"
    examples = [validate(example, "here") for example in source]
    asked = [
        {"question": q, "answers": [a], "type": kind}
        for (q, a, _), kind in zip(ROWS, ["open", "yes/no", "yes/no"], strict=True)
    ]
    assert [e["questions"] for e in examples] == [[asked[1]], [asked[0], asked[2]]]
    shown = [Image.open(example["image"]).getpixel((0, 0))[0] for example in examples]
    assert shown == [0, 1]
    assert [example["id"] for example in examples] == ["0", "1"]


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="run: pip install --no-deps easy-vqa"):
        EasyVQA("train")


@pytest.mark.parametrize("content", ["{", "[[1, 2]]", "7", '[["q", "a", null]]'])
def test_a_broken_file_is_named(content, folder, tmp_path):
    (tmp_path / "test" / "questions.json").write_text(content)
    with pytest.raises(DataError, match="questions.json cannot be read"):
        EasyVQA("test", folder)


def test_wrong_split_missing_split_and_wrong_position(folder):
    with pytest.raises(ValueError, match="not 'val'"):
        EasyVQA("val", folder)
    with pytest.raises(DataError, match="questions.json cannot be read"):
        EasyVQA("train", folder)
    with pytest.raises(IndexError):
        EasyVQA("test", folder)[2]


@pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="easy-vqa is in the extra `data`"
)
def test_the_real_package_has_the_published_size_and_is_never_imported():
    train, test = EasyVQA("train"), EasyVQA("test")
    assert (len(train), len(test)) == (4_000, 1_000)
    asked, held_out = ([q for e in source for q in e["questions"]] for source in (train, test))
    assert (len(asked), len(held_out)) == (38_575, 9_673)
    assert [question["type"] for question in held_out].count("open") == 2_537
    assert len({a for question in asked + held_out for a in question["answers"]}) == 13
    assert Image.open(test[999]["image"]).size == (64, 64)
    assert "easy_vqa" not in sys.modules
