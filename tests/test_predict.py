"""What is said about many pictures: in groups, past broken ones, gone on with after a stop."""

import json
from pathlib import Path

import numpy as np
import pytest

from vlm_jax import modes, predict
from vlm_jax.data.images import decode, encode_png
from vlm_jax.predict import GROUP, prediction

COUNT = GROUP + 6
BROKEN = 3


class Model:
    """Captions tell a picture's colour; counts how many it was shown."""

    abilities = ("caption", "answer")

    def __init__(self, most=None):
        self.shown, self.most = [], most

    def caption(self, paths):
        reds = [str(decode(path)[0, 0, 0]) for path in paths]
        if self.most is not None and sum(map(len, self.shown)) + len(paths) > self.most:
            raise KeyboardInterrupt
        self.shown.append(list(paths))
        return reds

    def answer(self, paths, question):
        return [f"{question} {red}" for red in self.caption(paths)]


class Sorter:
    abilities = ("classify",)

    def classify(self, paths):
        return [[{"label": Path(path).stem}] for path in paths]


@pytest.fixture
def folder(tmp_path):
    """Pictures of one colour each, one of them damaged, and a workdir with a checkpoint."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(COUNT):
        data = encode_png(np.full((4, 5, 3), i, np.uint8))
        (pictures / f"{i:03d}.png").write_bytes(data[:30] if i == BROKEN else data)
    (tmp_path / "run" / "checkpoints" / "10").mkdir(parents=True)
    return tmp_path


def ask(model, folder, **options):
    given = {"images": str(folder / "pictures")} | {k: str(v) for k, v in options.items()}
    return prediction(model, given, str(folder / "run"))


def test_pictures_are_described_in_groups_and_a_broken_one_is_named(folder, capsys):
    model = Model()
    found = ask(model, folder)
    assert (found["n"], found["errors"]) == (COUNT, 1)
    assert [len(paths) for paths in model.shown] == [GROUP - 1, 6]
    rows = found["predictions"]
    assert [row.get("caption") for row in rows] == [
        None if i == BROKEN else str(i) for i in range(COUNT)
    ]
    assert rows[BROKEN].keys() == {"image", "error"} and "003.png" in rows[BROKEN]["error"]
    assert f"{COUNT} of {COUNT}" in capsys.readouterr().err
    asked = ask(model, folder, question="how red?")
    assert asked["predictions"][-1]["answer"] == f"how red? {COUNT - 1}"
    assert ask(Sorter(), folder)["predictions"][0]["classes"] == [{"label": "000"}]


def test_what_was_said_before_a_stop_is_not_said_again(folder):
    out = folder / "said.jsonl"
    out.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        ask(Model(GROUP), folder, out=out)
    part = folder / "said.jsonl.part"
    assert out.read_text() == "older" and len(part.read_text().splitlines()) == GROUP + 1
    with part.open("a") as file:
        file.write('{"image": "cut o')  # the machine died while it wrote
    model = Model()
    found = ask(model, folder, out=out)
    assert sum(map(len, model.shown)) == COUNT - GROUP and "predictions" not in found
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == ask(Model(), folder)["predictions"] and not part.exists()


@pytest.mark.parametrize("change", ["question", "checkpoint", "picture"])
def test_another_run_begins_anew(change, folder):
    out, options = folder / "said.jsonl", {}
    with pytest.raises(KeyboardInterrupt):
        ask(Model(GROUP), folder, out=out)
    if change == "question":
        options = {"question": "how red?"}
    elif change == "checkpoint":
        (folder / "run" / "checkpoints" / "20").mkdir()
    else:
        (folder / "pictures" / "000.png").rename(folder / "pictures" / "0000.png")
    model = Model()
    ask(model, folder, out=out, **options)
    assert len(model.shown[0]) == GROUP - 1 and model.shown[0][0].endswith(".png")


def test_the_mode_says_where_the_model_is_and_that_something_failed(folder, monkeypatch, capsys):
    monkeypatch.setattr(modes.api, "load", lambda folder: Model())
    monkeypatch.setattr(predict, "GROUP", 2)
    options = {"images": str(folder / "pictures"), "out": str(folder / "said.jsonl")}
    assert modes.predict(None, str(folder / "run"), options) == 1
    assert json.loads(capsys.readouterr().out)["errors"] == 1
    (folder / "pictures" / f"{BROKEN:03d}.png").unlink()
    assert modes.predict(None, str(folder / "run"), options) == 0


def test_an_error_that_is_no_pictures_is_not_hidden(folder):
    (folder / "pictures" / f"{BROKEN:03d}.png").unlink()

    class Failing(Model):
        def caption(self, paths):
            raise predict.DataError("the memory is empty")

    with pytest.raises(predict.DataError, match="the memory is empty"):
        ask(Failing(), folder)
