"""launch.py as a user calls it: one run, every mode on it, and mistakes with their sentences."""

import json
import os
import subprocess
import sys
import wave
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vlm_jax
from tests import tiny
from vlm_jax import experiment, modes, sharding, train
from vlm_jax.data.images import encode_png
from vlm_jax.data.pipeline import Loader, stack
from vlm_jax.data.scenes import Scenes
from vlm_jax.data.schema import DataError
from vlm_jax.evaluate import Run
from vlm_jax.step import initial_state

ROOT = Path(__file__).parent.parent


def launch(*arguments):
    """Exit code, standard output and standard error of a real process."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run with a folder of three pictures."""
    folder = tmp_path_factory.mktemp("run")
    train.train(tiny.config(total_steps=2), folder / "workdir")
    pictures = folder / "pictures"
    pictures.mkdir()
    scenes = Scenes("test", size=40, length=3)
    rows = []
    for i in range(3):
        (pictures / f"{i}.png").write_bytes(encode_png(scenes[i]["image"]()))
        question = scenes[i]["questions"][0]
        rows.append({"id": str(i), "image": f"{i}.png", "captions": scenes[i]["captions"]})
        rows[-1] |= {"question": question["question"], "answers": question["answers"]}
    (pictures / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


NOTHING = dict.fromkeys(("data", "image", "question", "text", "images", "texts"))


def ask(mode, folder, capsys, **options):
    """The last line that a mode prints, as JSON."""
    assert modes.MODES[mode](None, str(folder), NOTHING | options) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@lru_cache(maxsize=1)
def listener():
    """An untrained model of pictures, texts and sounds of a fifth of a second."""
    vit = {"name": "vit", "layers": 1, "width": 16, "class_token": False, "pooling": "mean"}
    model = {
        "vision": vit | {"patch": 8, "image_size": 32} | tiny.BLOCK,
        "audio": vit | {"patch": 4, "image_size": (16, 20)} | tiny.BLOCK,
        "text": {"name": "transformer", **tiny.TEXT},
        "contrast": {"size": 8},
    }
    pair = lambda *kinds: {"name": "retrieval", "between": kinds, "length": 16}
    scenes = {"name": "scene_sounds", "source": tiny.common.scenes("train", length=8, size=32)}
    given = tiny.config(
        model=model,
        tasks={"a": pair("audio", "text"), "b": pair("audio", "image")},
        evals={},
        data={"train": scenes, "image": {"size": 32}, "audio": AUDIO},
    )
    source = experiment.source(scenes, "train")
    setup = experiment.build(given, None, source)
    batch = stack([Loader(source, setup.read, setup.preprocess)(0)] * 8)
    shapes = jax.eval_shape(lambda: initial_state(setup, batch, 0))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
    return vlm_jax.api.Model(Run(setup, {"params": params}, sharding.make_mesh(), 8))


AUDIO = {"seconds": 0.2, "mel": {"bins": 16}}


def test_sounds_are_embedded_and_rank_texts_and_pictures(tmp_path, capsys, monkeypatch):
    model, rate = listener(), 16_000
    tones = [np.sin(np.arange(3200) * step).astype(np.float32) for step in (0.1, 0.4)]
    vectors = model.embed_audio([(tone, rate) for tone in tones])
    assert vectors.shape == (2, 8) and not np.allclose(*vectors, atol=1e-2)
    np.testing.assert_allclose(model.embed_audio((tones[1], rate)), vectors[1], atol=1e-5)
    path = str(tmp_path / "tone.wav")
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(32_767 * tones[1]).astype("<i2").tobytes())
    np.testing.assert_allclose(model.embed_audio(path), vectors[1], atol=1e-2)
    with pytest.raises(DataError, match="no such file"):
        model.embed_audio("absent.wav")
    with pytest.raises(ValueError, match="give one of the two"):
        model.rank_for_audio(path)
    monkeypatch.setattr(modes.api, "load", lambda folder: model)
    (tmp_path / "texts.txt").write_text("a red star\n\na blue circle\n")
    found = ask("predict", "", capsys, audio=path, texts=str(tmp_path / "texts.txt"))["ranking"]
    scores = {text: float(model.embed_text(text) @ vectors[1]) for text in COLOURED}
    assert [hit["text"] for hit in found] == sorted(COLOURED, key=lambda text: -scores[text])
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    found = ask("predict", "", capsys, audio=path, images=str(tmp_path))
    assert [hit["image"] for hit in found["ranking"]] == [str(tmp_path / "a.png")]


COLOURED = ("a red star", "a blue circle")


def test_predict_captions_answers_and_ranks(run, capsys):
    workdir, picture = run / "workdir", str(run / "pictures" / "0.png")
    caption = ask("predict", workdir, capsys, image=picture)
    assert isinstance(caption["caption"], str)
    assert caption["image"] == picture
    answer = ask("predict", workdir, capsys, image=picture, question="what colour is the star")
    assert answer["answer"] in tiny.scenes.answers()
    ranking = ask("predict", workdir, capsys, text="a red star", images=str(run / "pictures"))
    assert sorted(hit["index"] for hit in ranking["ranking"]) == [0, 1, 2]
    (run / "texts.txt").write_text("a red star\n\na blue circle\n")
    texts = ask("predict", workdir, capsys, image=picture, texts=str(run / "texts.txt"))
    scores = [hit["score"] for hit in texts["ranking"]]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ValueError, match="--mode=predict takes"):
        modes.predict(None, str(workdir), NOTHING | {"image": picture, "text": "a"})


def test_eval_on_the_configs_sets_equals_the_end_of_training(run, capsys):
    metrics = ask("eval", run / "workdir", capsys)
    logged = json.loads((run / "workdir" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["answers/accuracy"] == pytest.approx(logged["answers/accuracy"])
    assert metrics["captions/CIDEr-D"] == pytest.approx(logged["captions/CIDEr-D"])
    assert metrics["search/image_to_text/R@5"] == logged["search/image_to_text/R@5"]


def test_eval_on_a_users_folder(run, capsys):
    metrics = ask("eval", run / "workdir", capsys, data=str(run / "pictures"))
    assert metrics["captions/n"] == metrics["answers/n"] == metrics["search/n"] == 3
    rows = (run / "workdir" / "eval" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["0", "1", "2"]


def test_every_example_counts_once_for_every_batch_size(run):
    model = vlm_jax.load(run / "workdir")
    source = Scenes("test", length=11, size=32, questions=2)
    task = model.run.experiment.tasks["vqa"]
    found = []
    for size in (8, 16):
        model.run.batch_size = size
        found.append(dict(task.evaluate(model.run, source)))
    assert found[0] == found[1]
    assert found[0]["n"] == 22


def test_the_python_object_takes_paths_pictures_and_arrays_singly_or_in_lists(run):
    model = vlm_jax.load(run / "workdir")
    path = run / "pictures" / "0.png"
    pixels = np.asarray(Image.open(path))
    one = model.caption(path)
    assert model.caption([path, Image.open(path), pixels, path.read_bytes()]) == [one] * 4
    several = model.caption(path, n_best=3, sample=True, temperature=3.0)
    judged = model.caption(path, n_best=3, sample=True, temperature=3.0, judge=model)
    assert sorted(judged) == sorted(several)
    assert judged == [row["text"] for row in model.rank_texts(path, several)]
    with pytest.raises(ValueError, match="set n_best"):
        model.caption(path, judge=model)
    assert len(model.answer(path, ["what is it", "what colour is it"])) == 2
    vectors = model.embed_image([path, pixels])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.embed_text("a star")), 1, atol=1e-5)
    best = model.rank("a red star", [path, pixels])[0]
    assert -1 <= best["score"] <= 1
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        model.caption([path, run / "nothing.png"])
    with pytest.raises(ValueError, match="2 images and 3 questions"):
        model.answer([path, path], ["a", "b", "c"])


def test_reproduce_compares_with_expected(tmp_path, capsys):
    config = tiny.captioner(total_steps=2, evals={"captions": tiny.config()["evals"]["captions"]})
    fine = config | {"expected": {"captions/n": (11, 0)}}
    assert modes.reproduce(fine, str(tmp_path / "a"), {}) == 0
    wrong = config | {"expected": {"captions/n": (12, 0.5), "captions/none": (1, 1)}}
    assert modes.reproduce(wrong, str(tmp_path / "a"), {}) == 1
    printed = capsys.readouterr().out
    assert "FAIL captions/n: 11, expected 12 +- 0.5" in printed
    assert "FAIL captions/none: absent" in printed
    with pytest.raises(ValueError, match="no `expected` numbers"):
        modes.reproduce(config, str(tmp_path / "a"), {})


@lru_cache
def mistake(*arguments):
    """Standard error of a call that must fail, without a traceback."""
    code, _, error = launch(*arguments)
    assert code == 1
    assert "Traceback" not in error
    return error


QUICKSTART = "--config=configs/quickstart.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([QUICKSTART], "--workdir=FOLDER is missing"),
        (["--workdir=/tmp/x"], "needs --config=FILE"),
        ([QUICKSTART, "--workdir=/proc/x"], "/proc/x"),
        (["--mode=predict", "--workdir=/nowhere", "--image=x"], "is not the workdir of a run"),
        (
            [QUICKSTART, "--config.optimizer.name=adamm", "--workdir={tmp}"],
            "did you mean 'adam'",
        ),
        ([QUICKSTART, "--config.batch_size=0", "--workdir={tmp}"], "batch_size=0"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, tmp_path):
    assert sentence in mistake(*(a.format(tmp=tmp_path) for a in arguments))


def test_help_is_quick_and_names_the_modes():
    code, output, _ = launch("--help")
    assert code in (0, 1)  # absl's --help exits with 1
    assert "--mode=predict" in output
    assert "jax_" not in output.split("absl.")[0]
