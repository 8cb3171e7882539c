import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.logs import JsonLines, Logs, read_lines


def write_lines(path, steps, resume=None):
    lines = JsonLines(path, resume)
    for step in steps:
        lines.write(step, {"loss": 1 / (step + 3)})
    lines.close()


def test_lines_keep_every_bit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {"f32": jnp.float32(0.1), "f64": 1 / 3, "numpy": np.float32(2) / 3, "count": 7}
    lines = JsonLines(path)
    lines.write(1, values)
    lines.write(2, {"nan": math.nan, "infinite": jnp.float32(-math.inf)})
    lines.close()
    first, second = read_lines(path)
    assert first == {"step": 1} | {name: float(value) for name, value in values.items()}
    assert np.float32(first["f32"]) == np.float32(0.1)
    assert '"count": 7}' in path.read_text()
    assert second == {"step": 2, "nan": None, "infinite": None}


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
    write_lines(tmp_path / "whole", range(9))
    for stopped, resume in [(8, 5), (5, 5), (3, 0), (6, None)]:
        path = tmp_path / f"{stopped}-{resume}"
        write_lines(path, range(stopped + 1))
        write_lines(path, range(0 if resume is None else resume + 1, 9), resume)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_last_line_is_removed(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [1, 2, 3])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    write_lines(path, [3], resume=3)
    assert path.read_bytes() == content


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not a line of this log"):
        JsonLines(path, resume=3)


def test_a_step_is_one_line(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write(4, {"loss": 1})
    with pytest.raises(ValueError, match="step 4 after step 4; write all values of a step at once"):
        lines.write(4, {"accuracy": 1})
    lines.close()
    lines = JsonLines(tmp_path / "metrics.jsonl", resume=4)
    with pytest.raises(ValueError, match="step 3 after step 4"):
        lines.write(3, {"loss": 1})
    lines.close()


def test_logs_separate_deterministic_values_from_timing(tmp_path):
    logs = Logs(tmp_path, {})
    logs.write(1, {"loss": 0.5})
    logs.write_timing(1, {"examples_per_second": 10.0})
    logs.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    assert read_lines(tmp_path / "timing.jsonl") == [{"step": 1, "examples_per_second": 10.0}]
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_files_hold_the_values(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    logs = Logs(tmp_path)
    logs.write(3, {"loss": 0.5})
    logs.write_timing(3, {"speed": 8.0})
    logs.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, scalars = file.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")  # then a CRC of 4 bytes, data, a CRC
        event = Event.FromString(content[12 : 12 + length])
        scalars |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        content = content[16 + length :]
    assert scalars == {"loss": (3, 0.5), "speed": (3, 8.0)}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=f"config.logs.{name} needs .*pip install {name}"):
        Logs(tmp_path, {name: {}})


def test_wandb_continues_the_same_run(tmp_path, monkeypatch):
    started, logged = [], []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end")
    )
    fake = types.SimpleNamespace(init=lambda **options: started.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        logs = Logs(tmp_path, {"wandb": {"project": "mine"}}, resume=step - 1 or None)
        logs.write(step, {"loss": jnp.float32(0.5)})
        logs.close()
    assert started[0] == started[1]
    assert started[0]["project"] == "mine"
    assert len(started[0]["id"]) == 32
    assert logged == [(1, {"loss": 0.5}), "end", (2, {"loss": 0.5}), "end"]


def test_mlflow_continues_the_same_run(tmp_path, monkeypatch):
    logged, created = [], []

    class Client:
        def __init__(self, tracking_uri):
            assert tracking_uri == "file:/x"

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id="9") if created else None

        def create_experiment(self, name):
            return "9"

        def create_run(self, group, run_name):
            created.append((group, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="run-1"))

        def log_metric(self, run, name, value, step):
            logged.append((run, name, value, step))

        def set_terminated(self, run):
            logged.append(run)

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client))
    for step in (1, 2):
        logs = Logs(tmp_path, {"mlflow": {"tracking_uri": "file:/x"}}, resume=step - 1 or None)
        logs.write(step, {"loss": 0.5})
        logs.close()
    assert created == [("9", tmp_path.name)]
    assert logged == [("run-1", "loss", 0.5, 1), "run-1", ("run-1", "loss", 0.5, 2), "run-1"]


def test_config_errors(tmp_path):
    with pytest.raises(ValueError, match=r"config.logs writer 'tensorbord'; did you mean"):
        Logs(tmp_path, {"tensorbord": {}})
    with pytest.raises(TypeError, match=r"'projct' in config.logs.wandb; did you mean 'project'"):
        Logs(tmp_path, {"wandb": {"projct": "x"}})


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    logs = Logs(tmp_path)
    logs.write(1, {"loss": 1.0})
    logs.write_timing(1, {"speed": 1.0})
    logs.close()
    assert list(tmp_path.iterdir()) == []


def test_lines_are_json(tmp_path):
    write_lines(tmp_path / "x", range(3))
    assert all(json.loads(line) for line in (tmp_path / "x").read_text().splitlines())
