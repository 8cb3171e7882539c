"""Pictures drawn by an evaluation: judged by what scenes should show, kept, and shown."""

import json

import numpy as np
from PIL import Image

from vlm_jax.data.scenes import Scenes
from vlm_jax.gallery import gallery
from vlm_jax.tasks.drawn import draw_and_judge, first_of, keep

DATA = {"name": "scenes", "split": "test", "size": 64, "length": 6, "questions": 0}
SCENES = Scenes("test", 64, 6, questions=0)


class Run:
    """What a task uses of `evaluate.Run`."""

    def __init__(self, path):
        self.predictions = path

    def save_predictions(self, rows):
        self.predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_in(folder):
    (folder / "predictions").mkdir(exist_ok=True)
    return Run(folder / "predictions" / "test.jsonl")


def judged(folder, pictures):
    asked = []
    draw = lambda texts: asked.extend(texts) or pictures
    told = lambda example: example["captions"][0]
    scores = dict(draw_and_judge(run_in(folder), draw, first_of(SCENES, 9), told))
    assert asked == [example["captions"][0] for example in SCENES]
    return {name: score.value for name, score in scores.items()}


def true_pictures():
    return np.stack([example["image"]() for example in SCENES])


def test_true_pictures_are_right_and_those_of_other_texts_are_not(tmp_path):
    found = judged(tmp_path, true_pictures())
    assert all(found[f"drawn_{name}"] == 1 for name in ("count", "colours", "shapes", "right"))
    assert found["drawn_right/other_text"] == 0 and found["drawn_count/other_text"] < 1
    found = judged(tmp_path, np.full((6, 64, 64, 3), 250, np.uint8))
    assert set(found.values()) == {0.0}


def test_pictures_are_kept_and_shown_beside_the_true_ones(tmp_path):
    pictures = true_pictures()
    pictures[1] = 0
    judged(tmp_path, pictures)
    stored = np.asarray(Image.open(tmp_path / "predictions" / "test" / "2.png"))
    np.testing.assert_array_equal(stored, pictures[2])
    config = {"data": {"train": DATA}, "evals": {"test": {"data": DATA}}}
    shown = gallery(tmp_path, config, "test")
    assert (shown.kind, shown.note, len(shown.cards)) == ("drawn", "", 6)
    assert [card["right"] for card in shown.cards] == [True, False, True, True, True, True]
    assert all(card["true"]["uri"] and card["drawn"]["uri"] for card in shown.cards)
    assert shown.cards[0]["drawn"]["uri"] == shown.cards[0]["true"]["uri"]
    assert shown.cards[1]["drawn"]["uri"] != shown.cards[1]["true"]["uri"]
    (tmp_path / "predictions" / "test" / "0.png").write_bytes(b"no picture")
    assert gallery(tmp_path, config, "test").cards[0]["drawn"]["uri"] is None


def test_without_examples_or_a_file_nothing_is_kept():
    assert list(draw_and_judge(Run(None), np.stack, [], str)) == []
    keep(Run(None), [{"id": "a"}], np.zeros((1, 4, 4, 3), np.uint8))
