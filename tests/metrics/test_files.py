"""Files of predictions and references: every format in, the servers' formats out, and mistakes that
are named.
"""

import json

import pytest

from vlm_jax.metrics.files import read_predictions, read_references, write_predictions

COCO = [{"image_id": 2, "caption": "a dog"}, {"image_id": 1, "caption": "a cat"}]
VQA = [{"question_id": 5, "answer": "yes"}]


@pytest.fixture
def save(tmp_path):
    def write(content, name="file.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    return write


def test_formats_of_predictions(save):
    assert read_predictions(save(COCO)) == ("caption", {2: "a dog", 1: "a cat"})
    assert read_predictions(save(VQA)) == ("answer", {5: "yes"})
    lines = '{"id": "7", "caption": "é", "more": 1}\n\n{"id": "x7", "caption": "b"}\n'
    assert read_predictions(save(lines)) == ("caption", {7: "é", "x7": "b"})
    assert read_predictions(save('{"id": "007", "label": "dog"}')) == ("label", {"007": "dog"})


def test_formats_of_references(save):
    annotations = {"images": [], "annotations": [*COCO, {"image_id": 2, "caption": "two"}]}
    assert read_references(save(annotations), "caption").texts == {
        2: ["a dog", "two"],
        1: ["a cat"],
    }
    answers = [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]
    question = {"question_id": 5, "answer_type": "yes/no", "answers": answers}
    found = read_references(save({"annotations": [question]}), "answer")
    assert found == ({5: ["yes", "no"]}, {5: "yes/no"})
    lines = '{"id": "3", "captions": ["a", "b"]}\n{"id": "4", "captions": [], "answers": ["1"]}'
    assert read_references(save(lines), "caption").texts == {3: ["a", "b"]}
    assert read_references(save(lines), "answer").texts == {4: ["1"]}
    assert read_references(save('{"id": "3", "label": "dog"}'), "label").texts == {3: ["dog"]}


def test_what_is_written_is_what_servers_take(tmp_path):
    path = tmp_path / "results.json"
    write_predictions(path, "caption", {"10": "ein Hund", "9": "café"})
    rows = json.loads(path.read_text("utf-8"))
    assert rows == [{"image_id": 9, "caption": "café"}, {"image_id": 10, "caption": "ein Hund"}]
    assert read_predictions(path).texts == {9: "café", 10: "ein Hund"}
    write_predictions(path, "answer", {5: "yes"})
    assert json.loads(path.read_text()) == VQA
    with pytest.raises(ValueError, match="label"):
        write_predictions(path, "label", {5: "yes"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no predictions"),
        ([], "holds no predictions"),
        ("[{", "not JSON"),
        ('{"id": "1", "caption": "a"}\n{"id": \n', "line 2: not JSON"),
        ([{"image_id": 1, "text": "a"}], "entry 1: no caption, answer or label"),
        ([*COCO, {"image_id": 3}], "entry 3: id 3 has no caption"),
        ([*COCO, {"caption": "a"}], "entry 3: no image_id or id among"),
        ([*COCO, {"image_id": "2", "caption": "b"}], "entry 3: id 2 is predicted a second time"),
        ([{"question_id": 5, "answer": 3}], "answer of id 5 must be a string, it is 3"),
        ([{"question_id": 5, "answer": None}], "must be a string, it is None"),
        ([{"image_id": 1.5, "caption": "a"}], "a whole number or a text, this is 1.5"),
        ([{"image_id": True, "caption": "a"}], "this is True"),
        ([*COCO, {"image_id": 3, "caption": " "}], "1 ids with an empty caption: 3"),
        ([*COCO, "text"], "entry 3: a JSON object belongs here"),
        ({"results": []}, "no caption, answer or label"),
        ("5", "JSON lines belong here"),
    ],
)
def test_mistakes_in_predictions_are_named(save, content, message):
    with pytest.raises(ValueError, match=f"file.json.*{message}"):
        read_predictions(save(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "holds no answers to compare"),
        ({"annotations": COCO}, "holds no answers to compare the answer with"),
        ({"annotations": [{"question_id": 5, "answers": [{"answer": 3}]}]}, "one is 3"),
        ({"annotations": [{"question_id": 5, "answers": 3}]}, "must be a list, it is 3"),
        ('{"id": "1", "answers": ["a"]}\n{"id": "1", "answers": ["a"]}', "line 2: id 1 is there"),
    ],
)
def test_mistakes_in_references_are_named(save, content, message):
    with pytest.raises(ValueError, match=f"file.json.*{message}"):
        read_references(save(content), "answer")


def test_empty_predictions_can_be_allowed_and_lost_files_are_named(save, tmp_path):
    assert read_predictions(save([{"image_id": 1, "caption": ""}]), True).texts == {1: ""}
    with pytest.raises(ValueError, match=r"lost\.json cannot be read: No such file"):
        read_predictions(tmp_path / "lost.json")
    (tmp_path / "latin.json").write_bytes(b'[{"image_id": 1, "caption": "\xe9"}]')
    with pytest.raises(ValueError, match="latin.json is not UTF-8, at byte 29"):
        read_predictions(tmp_path / "latin.json")
