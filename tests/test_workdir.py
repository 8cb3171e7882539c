import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from vlm_jax import workdir
from vlm_jax.workdir import atomic_write_bytes, atomic_write_text, open_workdir, read_config

CONFIG = ConfigDict({"seed": 1, "total_steps": 10, "model": {"width": 8, "heads": (1, 2)}})


def test_a_workdir_describes_its_run(tmp_path):
    with open_workdir(tmp_path / "a" / "run", CONFIG) as path:
        assert path == tmp_path / "a" / "run"
        assert read_config(path) == {
            "seed": 1,
            "total_steps": 10,
            "model": {"width": 8, "heads": [1, 2]},
        }
        described = json.loads((path / "versions.json").read_text())
    assert described["packages"]["numpy"] == np.__version__
    assert described["python"].startswith(f"{sys.version_info.major}.")
    revision = described["git_revision"]
    assert revision is None or len(revision.split("+")[0]) == 40


def test_the_same_config_may_return_and_harmless_keys_may_change(tmp_path):
    changed = CONFIG.copy_and_resolve_references()
    changed.total_steps = 20
    changed.expected = {"accuracy": (0.9, 0.1)}
    for config in (CONFIG, CONFIG, changed):
        with open_workdir(tmp_path, config):
            pass
    assert read_config(tmp_path)["total_steps"] == 20


def test_another_config_is_refused_naming_keys_and_values(tmp_path):
    with open_workdir(tmp_path, CONFIG):
        pass
    other = {"total_steps": 5, "model": {"width": 16, "heads": [1, 2], "depth": 3}}
    with pytest.raises(ValueError) as error, open_workdir(tmp_path, other):
        pass
    assert str(error.value).splitlines()[1:] == [
        "  config.model.depth: absent in the workdir, 3 now",
        "  config.model.width: 8 in the workdir, 16 now",
        "  config.seed: 1 in the workdir, absent now",
    ]
    assert read_config(tmp_path)["model"]["width"] == 8
    with open_workdir(tmp_path, CONFIG):  # the refusal left no lock
        pass


def test_a_second_owner_is_refused_while_the_first_lives(tmp_path):
    with open_workdir(tmp_path, CONFIG):
        with pytest.raises(RuntimeError, match=f"in use by process {os.getpid()} on "):
            with open_workdir(tmp_path, CONFIG):
                pass
        with open_workdir(tmp_path, CONFIG, owner=False) as path:
            assert path == tmp_path
    with open_workdir(tmp_path, CONFIG):
        pass


HOLD = """
import sys
import time
from vlm_jax.workdir import open_workdir

config = {"seed": 1, "total_steps": 10, "model": {"width": 8, "heads": [1, 2]}}
with open_workdir(sys.argv[1], config):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_its_lock_dies_with_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match=f"in use by process {child.pid} on "):
            with open_workdir(tmp_path, CONFIG):
                pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with open_workdir(tmp_path, CONFIG):
        pass


def test_errors_of_the_body_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"picture.png"):
        with open_workdir(tmp_path, CONFIG):
            open(tmp_path / "picture.png")


def test_a_folder_that_cannot_be_made_or_written_is_an_error_with_advice(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"cannot write .*file/run.*use a workdir that is"):
        with open_workdir(tmp_path / "file" / "run", CONFIG):
            pass

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir.os, "fsync", full)
    with pytest.raises(OSError, match=r"config.json: No space left on device; free some space"):
        with open_workdir(tmp_path / "run", CONFIG):
            pass
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_config_that_is_not_json_names_the_key(tmp_path):
    with pytest.raises(TypeError, match=r"config.model.rule is .*JSON cannot hold"):
        with open_workdir(tmp_path, {"model": {"rule": np.sin}}):
            pass


def test_read_config_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the workdir of a run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        read_config(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    atomic_write_text(tmp_path / "x", "old é")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old é"

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(workdir.os, "replace", broken)
    with pytest.raises(OSError, match=r"cannot write .*x: Input/output error"):
        atomic_write_bytes(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text(encoding="utf-8") == "old é"
