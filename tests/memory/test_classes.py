"""The classes of a classifier as entries: what is nearest to features is what it would say."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import test_features
from vlm_jax.data.schema import DataError
from vlm_jax.data.sources import make_source
from vlm_jax.memory import BadMemory, Exact, Memory, classes
from vlm_jax.memory.encoders import Published

NAMES = ["cat", "coffee", "rocket"]


def classifier(folder, **changes):
    """A tiny classifier as a published folder."""
    folder.mkdir()
    config = test_features.LITE | changes
    kept = dict(test_features.tensors("lite"))
    if not config["num_classes"]:
        kept = {name: x for name, x in kept.items() if not name.startswith("classifier")}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(kept, folder / "model.safetensors")
    picture = dict(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


def test_the_nearest_entry_is_the_row_of_the_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    folder = classifier(tmp_path / "lite")
    memory = classes.class_memory(folder, NAMES, tmp_path / "m")
    rows = test_features.tensors("lite")["classifier.weight"]
    np.testing.assert_array_equal(memory.vectors(0, 3), rows)
    assert [memory.entry(i)["texts"] for i in range(3)] == [[name] for name in NAMES]
    encoder = Published(folder)
    memory.require(encoder.fingerprint, "the encoder")
    found = np.stack([v for _, v in encoder.images(make_source(test_features.SCENES))])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = np.argmax(unit(found) @ unit(rows).T, axis=1)
    assert Exact(memory)(found, 1).rows[:, 0].tolist() == expected.tolist()
    again = classes.class_memory(folder, NAMES, tmp_path / "m")
    assert isinstance(again, Memory) and again.digest == memory.digest


def test_names_have_to_fit(tmp_path):
    with pytest.raises(DataError, match="tells 3 classes apart, but 2 have names"):
        classes.class_memory(classifier(tmp_path / "a"), NAMES[:2], tmp_path / "m")
    with pytest.raises(DataError, match="has no classifier"):
        classes.class_memory(classifier(tmp_path / "b", num_classes=0), NAMES, tmp_path / "m")
    with pytest.raises(BadMemory, match="is no memory"):
        Memory(tmp_path / "m")


def test_the_command_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    assert classes.main([f"--memory={tmp_path / 'm'}"]) == 1
    assert "run: python -m vlm_jax.data.prepare kit" in capsys.readouterr().err
