import json

import pytest

from vlm_jax.data.builders import build
from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.sources import flatten_questions
from vlm_jax.data.tfds_source import Tfds


def official(folder, part, images):
    """The official files of a part; images: {id: [(question id, question, type, answers)]}."""
    (folder / part).mkdir(parents=True)
    questions, annotations = [], []
    for image, asked in images.items():
        (folder / part / f"COCO_{part}_{image:012d}.jpg").write_bytes(b"jpeg %d" % image)
        for number, text, kind, answers in asked:
            questions.append({"image_id": image, "question": text, "question_id": number})
            annotations.append(
                {
                    "question_type": "what is",
                    "multiple_choice_answer": answers[0],
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": k}
                        for k, answer in enumerate(answers, start=1)
                    ],
                    "image_id": image,
                    "answer_type": kind,
                    "question_id": number,
                }
            )
    dump = lambda name, content: (folder / name).write_text(json.dumps(content))
    dump(f"v2_OpenEnded_mscoco_{part}_questions.json", {"info": {}, "questions": questions})
    dump(f"v2_mscoco_{part}_annotations.json", {"info": {}, "annotations": annotations[::-1]})


VOTES = ["net"] * 7 + ["the net", "mesh", "Nét"]
TRAIN = {
    9: [(9000, "What is it?", "other", VOTES), (9001, "Is it red?", "yes/no", ["no"] * 10)],
    458752: [(458752000, "How many?", "number", ["2"] * 9 + ["3"])],
}


@pytest.fixture
def folder(tmp_path):
    official(tmp_path / "files", "train2014", TRAIN)
    return tmp_path / "files"


def test_official_files_become_one_example_per_image(folder, tmp_path):
    official(folder, "val2014", {42: [(42000, "Why?", "other", ["x"] * 10)]})
    path = build("vqav2", str(folder), str(tmp_path / "out"))
    assert path == tmp_path / "out" / "vqav2" / "1.0.0"
    train = Tfds("vqav2", "train", str(tmp_path / "out"))
    examples = {example["id"]: validate(example, "here") for example in train}
    assert set(examples) == {"9", "458752"}
    assert examples["9"]["image"] == b"jpeg 9" and examples["9"]["captions"] == []
    assert examples["9"]["questions"] == [
        {"id": "9000", "question": "What is it?", "answers": VOTES, "type": "other"},
        {"id": "9001", "question": "Is it red?", "answers": ["no"] * 10, "type": "yes/no"},
    ]
    assert examples["458752"]["questions"][0]["answers"] == ["2"] * 9 + ["3"]
    validation = Tfds("vqav2", "validation", str(tmp_path / "out"))
    assert [example["id"] for example in validation] == ["42"]
    assert len(flatten_questions(train)) == 3


def test_a_part_that_is_not_there_is_left_out(folder, tmp_path):
    build("vqav2", str(folder), str(tmp_path / "out"))
    with pytest.raises(DataError, match="Unknown split 'validation'"):
        Tfds("vqav2", "validation", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("v2_OpenEnded_mscoco_train2014_questions.json", "(?s)questions.json.*visualqa.org"),
        ("v2_mscoco_train2014_annotations.json", "holds no v2_mscoco_train2014_annotations.json"),
        ("train2014/COCO_train2014_000000000009.jpg", "there is no image .*000000000009.jpg"),
    ],
)
def test_a_missing_file_is_named_and_nothing_is_left(missing, message, folder, tmp_path):
    (folder / missing).unlink()
    with pytest.raises(DataError, match=message):
        build("vqav2", str(folder), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "vqav2" / "1.0.0").exists()


def test_a_question_without_an_annotation_is_named(folder, tmp_path):
    path = folder / "v2_mscoco_train2014_annotations.json"
    rows = json.loads(path.read_text())["annotations"]
    path.write_text(json.dumps({"annotations": [r for r in rows if r["question_id"] != 9001]}))
    with pytest.raises(DataError, match="annotations.json has no answers to question 9001"):
        build("vqav2", str(folder), str(tmp_path / "out"))
