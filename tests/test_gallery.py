import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from vlm_jax.data.scenes import Scenes
from vlm_jax.gallery import PICTURES, QUESTIONS, data_uri, gallery, read_rows

DATA = {"name": "scenes", "split": "test", "size": 32, "length": 40}
CONFIG = {"data": {"train": {"name": "scenes"}}, "evals": {"test": {"data": DATA}}}
SCENES = Scenes(split="test", size=32, length=40)


@pytest.fixture
def show(tmp_path):
    """A function from predictions to their gallery."""

    def show(rows, config=CONFIG):
        (tmp_path / "predictions").mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "predictions" / "test.jsonl").write_text(text)
        return gallery(tmp_path, config, "test")

    return show


def decoded(uri):
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_captions_stand_beside_the_right_picture_and_the_true_captions(show):
    shown = show([{"id": example["id"], "caption": f"about {example['id']}"} for example in SCENES])
    assert (shown.kind, shown.total, len(shown.cards), shown.note) == ("caption", 40, PICTURES, "")
    truth = {example["id"]: example for example in SCENES}
    for card in shown.cards:
        example = truth[card["picture"]["id"]]
        assert card["caption"] == f"about {example['id']}" and card["true"] == example["captions"]
        small = decoded(card["picture"]["uri"]).resize((32, 32), Image.Resampling.BOX)
        pixels = example["image"]() if callable(example["image"]) else example["image"]
        assert np.abs(np.asarray(small, float) - pixels).mean() < 8
    chosen = [int(card["picture"]["id"].split("-")[-1]) for card in shown.cards]
    assert np.ptp(np.diff(chosen)) <= 1, "evenly spaced"


def test_answers_are_judged_against_the_question_they_answer(show):
    example = SCENES[3]
    rows = [
        {"id": f"{example['id']}/{k}", "question": q["question"], "answer": answer}
        for k, q in enumerate(example["questions"])
        for answer in [q["answers"][0] if k else "a whale"]
    ]
    rows.append({"id": f"{example['id']}/9", "question": "who painted it", "answer": "me"})
    (card,) = show(rows[:2] + rows[-1:]).cards
    assert card["picture"]["id"] == example["id"] and card["picture"]["uri"]
    assert [answer["score"] for answer in card["answers"]] == [0.0, 1.0, None]
    assert card["answers"][0]["true"] == example["questions"][0]["answers"]
    assert len(show(rows * 2).cards[0]["answers"]) == QUESTIONS


def test_classes_are_judged(show, tmp_path):
    Image.new("RGB", (8, 4), (255, 0, 0)).save(tmp_path / "red.png")
    row = {"id": "a", "image": "red.png", "captions": ["red"], "label": "red"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    config = {"evals": {"test": {"data": {"name": "jsonl", "path": str(tmp_path)}}}}
    (right,) = show([{"id": "a", "label": "red"}], config).cards
    (wrong,) = show([{"id": "a", "label": "blue"}], config).cards
    assert [card["answers"][0]["score"] for card in (right, wrong)] == [1.0, 0.0]
    picture = decoded(right["picture"]["uri"])
    assert picture.width == 2 * picture.height and picture.getpixel((9, 9))[0] > 240


def test_hits_are_right_if_their_captions_hold_the_text(show):
    wanted, other, third = (SCENES[i] for i in (0, 1, 2))
    text = wanted["captions"][0]
    assert text not in other["captions"] + third["captions"]
    row = {"id": wanted["id"], "captions": wanted["captions"], "text": text}
    (found,) = show([row | {"hits": [other["id"], wanted["id"]]}]).cards
    (missed,) = show([row | {"hits": [other["id"], third["id"]]}]).cards
    assert [hit["right"] for hit in found["hits"]] == [False, True] and found["missed"] is None
    assert [hit["right"] for hit in missed["hits"]] == [False, False]
    assert missed["missed"]["id"] == wanted["id"] and missed["missed"]["uri"]
    row = {"id": other["id"], "captions": [], "text": text, "hits": [wanted["id"]]}
    assert show([row]).cards[0]["hits"][0]["right"], "it belongs to another picture as well"


def test_missing_parts_become_notes(show, tmp_path):
    assert gallery(tmp_path, CONFIG, "test").note
    assert show([]).note
    assert show([{"id": "test-0", "captions": ["no hits saved"]}]).note
    rows = [{"id": "of another set", "caption": "a cat"}]
    (card,) = show(rows).cards
    assert card["picture"] == {"id": "of another set", "uri": None} and card["true"] == ()
    gone = {"evals": {"test": {"data": {"name": "jsonl", "path": str(tmp_path / "gone")}}}}
    shown = show(rows, gone)
    assert "gone" in shown.note and shown.cards[0]["caption"] == "a cat"


def test_without_data_of_its_own_an_evaluation_uses_the_training_set(show):
    config = {"data": {"train": DATA}, "evals": {"test": {"task": "captioning"}}}
    assert show([{"id": SCENES[0]["id"], "caption": "x"}], config).cards[0]["picture"]["uri"]


def test_broken_lines_are_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"id": 1}\nnot json\n[2]\n{"no": 3}\n\xff\n{"id": 4}\n{"id": 5')
    assert [row["id"] for row in read_rows(file, "id")] == [1, 4]
    assert read_rows(tmp_path / "absent.jsonl", "id") == []


def test_pictures_keep_their_shape_and_get_one_size():
    assert decoded(data_uri(np.zeros((10, 20, 3), np.uint8), side=64)).size == (64, 32)
    assert decoded(data_uri(np.zeros((900, 1, 3), np.uint8), side=64)).size == (1, 64)
