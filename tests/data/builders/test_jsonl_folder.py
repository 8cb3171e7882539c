import json

import pytest

from vlm_jax.data.builders import build
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.schema import DataError
from vlm_jax.data.tfds_source import Tfds

LINES = [
    {"id": "a", "image": "i/1.png", "captions": ["ein Bär"], "label": "bear"},
    {
        "id": "b",
        "image": "i/1.png",
        "captions": [],
        "question": "how many?",
        "answers": ["1", "one"],
    },
]


def folder(path, lines=LINES):
    (path / "i").mkdir(parents=True)
    (path / "i" / "1.png").write_bytes(b"png")
    (path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return path


def content(source):
    """Examples by id, without the image and the ids of questions, which only stored ones have."""
    return {
        example["id"]: (
            example["captions"],
            [(q["question"], q["answers"], q.get("type")) for q in example["questions"]],
            example.get("label"),
        )
        for example in source
    }


def test_a_folder_comes_back_as_the_same_examples(tmp_path):
    source = Jsonl(str(folder(tmp_path / "mine")))
    build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))
    stored = Tfds("jsonl_folder", "train", str(tmp_path / "out"))
    assert content(stored) == content(source)
    assert {example["image"] for example in stored} == {b"png"}


def test_sub_folders_are_splits(tmp_path):
    folder(tmp_path / "mine" / "train")
    folder(tmp_path / "mine" / "test", LINES[:1])
    build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))
    sizes = [len(Tfds("jsonl_folder", s, str(tmp_path / "out"))) for s in ("train", "test")]
    assert sizes == [2, 1]


def test_a_bad_line_and_an_empty_folder_are_named(tmp_path):
    folder(tmp_path / "mine", [*LINES, LINES[0]])
    with pytest.raises(DataError, match="data.jsonl, line 3: id 'a' is taken by line 1"):
        build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))
    (tmp_path / "mine" / "data.jsonl").unlink()
    with pytest.raises(DataError, match="nothing to build. A folder with data.jsonl"):
        build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["all", "my-set", "a+b"])
def test_a_sub_folder_that_no_split_can_be_named_like_is_an_error(name, tmp_path):
    folder(tmp_path / "mine" / name)
    with pytest.raises(DataError, match="rename it"):
        build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))
