"""A picture of one's own: its caption, what that was written from, what is said of bad files."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.memory.test_classes import NAMES, classifier
from vlm_jax import modes, train
from vlm_jax.data.images import encode_png
from vlm_jax.memory import classes, demo


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    path.write_bytes(encode_png(pixels))
    return path


def test_what_is_no_picture_is_said_before_anything_is_made(picture, tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    assert demo.main([f"--image={picture}", "--check"]) == 0
    for path, words in (("", "which picture"), (tmp_path / "x.jpg", "no file"), (text, "notes")):
        assert demo.main([f"--image={path}", "--check"]) == 1
        assert words in capsys.readouterr().err


def test_a_run_trained_with_one_memory_captions_with_another(
    picture, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    scenes = {"name": "scenes", "split": "train", "length": 8, "size": 32}
    config = tiny.captioner(total_steps=1, schedule={"name": "constant"})
    config["tasks"]["captioning"] |= {"retrieved": {"k": 2, "length": 6}, "length": 8}
    config["data"]["train"] = dict(name="retrieved", source=scenes, memory={"source": scenes}, k=2)
    train.train(config, tmp_path / "run")
    lite = classifier(tmp_path / "lite")
    memory = classes.class_memory(lite, NAMES, tmp_path / "demo" / "classes")
    capsys.readouterr()
    where = [f"--workdir={tmp_path / 'run'}", f"--memory={memory.folder}"]
    assert demo.main([f"--image={picture}", *where, "--k=2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.strip().splitlines())
    assert {near["text"] for near in first["neighbours"]} < {*NAMES}
    scores = [near["score"] for near in first["neighbours"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 2
    assert isinstance(first["caption"], str) and second["caption_without_neighbours"] is not None
    assert Image.open(first["sheet"]).size[0] > 500
    # The same neighbours by --mode=search, whose run did not make this memory.
    options = {"image": str(picture), "memory": str(memory.folder), "k": 2}
    assert modes.search(None, str(tmp_path / "run"), options) == 0
    hits = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["hits"]
    assert [hit["texts"][0] for hit in hits] == [near["text"] for near in first["neighbours"]]
