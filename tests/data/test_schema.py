"""The example form: what passes untouched, and what each kind of mistake is called."""

from pathlib import Path

import numpy as np
import pytest

from vlm_jax.data.schema import DataError, validate

PIXELS = np.zeros((4, 6, 3), np.uint8)


def example(**changes):
    """A correct example with some keys replaced."""
    question = {"question": "what colour is it", "answers": ["red"], "type": "colour"}
    return {
        "id": "a",
        "image": PIXELS,
        "captions": ["a cat"],
        "questions": [question],
        "label": "cat",
    } | changes


@pytest.mark.parametrize(
    "image", [PIXELS, "folder/a.png", Path("folder/a.png"), b"\x89PNG", lambda: PIXELS]
)
def test_every_kind_of_image_passes_and_the_example_is_returned_itself(image):
    given = example(image=image)
    assert validate(given, "here") is given


def test_empty_lists_extras_and_missing_optional_keys_are_fine():
    bare = {"id": "a", "image": "a.png", "captions": [], "questions": [], "extra": 3}
    assert validate(bare, "here") is bare


def test_a_lazy_image_is_not_rendered():
    def explode():
        raise AssertionError("rendered")

    validate(example(image=explode), "here")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": 7}, "id must be a text"),
        ({"id": " "}, "id is empty"),
        ({"image": None}, "image must be a path"),
        ({"image": ""}, "image is empty"),
        ({"image": b""}, "image holds no bytes"),
        ({"image": PIXELS.astype(np.float32)}, r"uint8 \[H, W, 3\].*float32 \[4, 6, 3\]"),
        ({"image": PIXELS[..., 0]}, r"uint8 \[4, 6\]"),
        ({"image": PIXELS[:0]}, r"uint8 \[0, 6, 3\]"),
        ({"captions": "a cat"}, "captions must be a list"),
        ({"captions": ["a cat", ""]}, r"captions\[1\] is empty"),
        ({"captions": [None]}, r"captions\[0\] must be a text, this is null"),
        ({"questions": {}}, "questions must be a list"),
        ({"questions": ["what"]}, r"questions\[0\] must be a dict"),
        ({"questions": [{"question": "what"}]}, r"questions\[0\] needs both"),
        ({"questions": [{"question": "", "answers": ["a"]}]}, r"questions\[0\].question is empty"),
        ({"questions": [{"question": "q", "answers": []}]}, r"questions\[0\].answers is empty"),
        ({"questions": [{"question": "q", "answers": "red"}]}, r"answers must be a list"),
        ({"questions": [{"question": "q", "answers": ["a"], "type": 1}]}, r"questions\[0\].type"),
        ({"label": 3}, "label must be a text"),
    ],
)
def test_each_mistake_names_the_place_and_the_key(changes, named):
    with pytest.raises(DataError, match="(?s)data.jsonl, line 7: .*" + named):
        validate(example(**changes), "data.jsonl, line 7")


def test_missing_keys_are_listed_together():
    with pytest.raises(DataError, match="captions, questions missing"):
        validate({"id": "a", "image": "a.png"}, "here")


def test_not_a_dict():
    with pytest.raises(DataError, match="an example is a dict, this is a list"):
        validate([1], "here")
    assert issubclass(DataError, ValueError)
