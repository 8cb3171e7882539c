import pytest

from vlm_jax.data.builders import records
from vlm_jax.data.schema import DataError


def test_answers_of_all_questions_lie_in_one_list_with_their_counts(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    questions = [
        {"question": "q0", "answers": ["a", "b"], "type": "open", "id": 77},
        {"question": "q1", "answers": ["c"]},
    ]
    made = records.record("7", tmp_path / "a.jpg", ["caption"], questions)
    assert made["answers"] == ["a", "b", "c"]
    assert made["questions"] == [
        {"id": "77", "question": "q0", "type": "open", "answers": 2},
        {"id": "1", "question": "q1", "type": "", "answers": 1},
    ]
    assert set(made) == set(records.features()) and made["label"] == ""


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no image .*b.jpg"):
        records.record("7", tmp_path / "b.jpg")


def test_the_first_present_name_is_taken_or_the_instructions_are_given(tmp_path):
    (tmp_path / "two").mkdir()
    assert records.present(tmp_path, ["one", "two"], "do this") == tmp_path / "two"
    with pytest.raises(DataError, match="holds no one or three.\ndo this"):
        records.present(tmp_path, ["one", "three"], "do this")
