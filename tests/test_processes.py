"""Real processes on this machine: together, moved to fewer, told to stop, and killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grain
import pytest
import yaml

from tests import tiny
from vlm_jax import lifeline, modes, processes, train
from vlm_jax.data.pipeline import InputReader
from vlm_jax.logs import read_lines

ROOT = Path(__file__).parent.parent
PATIENCE = 600
"""Seconds until a hanging process is a failure: a machine may have other things to do."""

CONFIG = """
import json, os
from pathlib import Path
from ml_collections import ConfigDict
from vlm_jax.data import pipeline

here = Path(__file__).parent
load = pipeline.Loader.__call__

def noted(self, index, rng=None):  # what training reads, by process
    if rng is not None:
        with (here / f"read-{os.environ['NUMBER']}").open("a") as file:
            file.write(f"{index}\\n")
    return load(self, index, rng)

pipeline.Loader.__call__ = noted

def get_config():
    return ConfigDict(json.loads((here / "config.json").read_text()))
"""


@contextlib.contextmanager
def reserved_port():
    """A port that nobody else is given, and that our own processes can listen on."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class Together:
    """`count` processes of launch.py, with two devices each; ended when the context is."""

    def __init__(self, folder, config, count, *flags):
        self.folder, self.count = Path(folder), count
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / "config.py").write_text(CONFIG)
        self.flags = [f"--config={self.folder / 'config.py'}", f"--workdir={self.folder / 'run'}"]
        self.flags += flags

    def __enter__(self):
        with reserved_port() as port:
            self.processes = [self._start(number, port) for number in range(self.count)]
            self.wait_until(lambda: "processes, found" in self.output(0))
        return self

    def _start(self, number, port):
        place = [f"--coordinator=127.0.0.1:{port}"]
        place += [f"--processes={self.count}", f"--process={number}"]
        environment = os.environ | {
            "GLIBC_TUNABLES": "",  # spares launch.py its restart
            "JAX_PLATFORMS": "cpu",
            "NUMBER": str(number),
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }
        with self._log(number).open("w") as log:
            return subprocess.Popen(
                [sys.executable, "launch.py", *self.flags, *place],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _log(self, number):
        return self.folder / f"log-{number}"

    def output(self, number):
        return self._log(number).read_text()

    def outputs(self):
        return "\n".join(f"--- {n}\n{self.output(n)}" for n in range(self.count))

    def wait_until(self, condition):
        """Until it holds; all processes must live."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            alive = all(process.poll() is None for process in self.processes)
            assert alive and time.monotonic() < deadline, self.outputs()
            time.sleep(0.02)

    def codes(self):
        return [process.wait(timeout=PATIENCE) for process in self.processes]

    def losses(self):
        file = self.folder / "run" / "metrics.jsonl"
        return {line["step"]: line for line in read_lines(file)} if file.exists() else {}

    def saved(self):
        names = [path.name for path in (self.folder / "run" / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def read(self, number):
        """Positions that a process has read for training, in order."""
        return [int(line) for line in (self.folder / f"read-{number}").read_text().split()]

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()


def config(**changes):
    """Steps without end, each logged; one thread reads, so that the order of reading is known."""
    made = tiny.config(
        total_steps=10**6,
        evals={},
        schedule={},
        checkpoint={"every_steps": 10**5},
        logs={"every_steps": 1},
    )
    made["model"] = {
        "vision": made["model"]["vision"],
        "text": {"name": "bag_of_words", "vocab": 128, "width": 16, "dropout": 0.1},
        "fusion": {"name": "concat", "width": 16},
        "classify": {},
    }
    made["tasks"] = {"vqa": made["tasks"]["vqa"]}
    return made | {"data": made["data"] | {"threads": 1}} | changes


def evaluated():
    """The same with an evaluation and a checkpoint every twenty steps."""
    evals = {"answers": tiny.config()["evals"]["answers"] | {"every_steps": 20}}
    return config(evals=evals, checkpoint={"every_steps": 20})


def assert_shares(run, steps):
    """Every process has read its rows of the global batches from the first step on, no others."""
    order = grain.MapDataset.range(64).seed(3).shuffle().repeat()
    share = 8 // run.count
    for number in range(run.count):
        rows = range(number * share, (number + 1) * share)
        expected = [int(order[8 * step + row]) for step in steps for row in rows]
        read = run.read(number)
        assert len(read) >= 20 * share
        assert read == expected[: len(read)], number


@pytest.mark.timeout(3 * PATIENCE)
def test_a_run_moves_from_four_processes_to_two_to_one(tmp_path, capsys):
    with Together(tmp_path / "four", config(), 4) as four:
        four.wait_until(lambda: len(four.losses()) >= 20)
        four.processes[2].send_signal(signal.SIGTERM)
        assert four.codes() == [0] * 4, four.outputs()
    stopped = four.saved()
    assert f"stopped by a signal at step {stopped}, saved" in four.output(0)
    assert max(four.losses()) == stopped
    assert_shares(four, range(stopped + 10))

    for name in ("two", "one"):
        shutil.copytree(tmp_path / "four" / "run", tmp_path / name / "run")
    with Together(tmp_path / "two", evaluated(), 2) as two:
        two.wait_until(lambda: two.saved() >= stopped + 20)
        began = time.monotonic()
        two.processes[1].kill()
        assert two.codes() == [1, -signal.SIGKILL], two.outputs()
        assert time.monotonic() - began < 60
    assert "process 1 of 2 on" in two.output(0) and "has died" in two.output(0)
    assert "the same command goes on from the last checkpoint" in two.output(0)
    assert f"going on from step {stopped:,}" in two.output(0)
    assert_shares(two, range(stopped, two.saved() + 20))

    run = tmp_path / "two" / "run"
    assert modes.evaluation(None, str(run), {"data": None}) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["answers/n"] == 22
    assert found == {name: two.losses()[two.saved()][name] for name in found}
    predicted = (run / "predictions" / "answers.jsonl").read_bytes()
    assert (run / "eval" / "answers.jsonl").read_bytes() == predicted

    one = lines_of(config(total_steps=stopped + 20), tmp_path / "one" / "run")
    alone = lines_of(config(total_steps=stopped + 20), tmp_path / "alone")
    assert len(one) == len(alone) == stopped + 20
    after = range(stopped + 1, stopped + 21)
    assert_close(four.losses(), alone, range(1, 21), 1e-6)
    assert_close(two.losses(), one, after, 1e-6)
    assert_close(one, alone, after, 1e-5)  # what four processes have rounded differently has grown


def lines_of(made, folder):
    """The log of a run in this process, by step."""
    train.train(made, folder)
    return {line["step"]: line for line in read_lines(folder / "metrics.jsonl")}


def assert_close(ours, theirs, steps, tolerance):
    for step in steps:
        assert ours[step]["loss"] == pytest.approx(theirs[step]["loss"], abs=tolerance), step


# --- what two processes say to each other, one of them made up ------------------------------------
class Line:
    """A lifeline with process 1, which gives `theirs` whenever it is asked."""

    def __init__(self, theirs=None):
        self.theirs, self.failures = theirs, []

    def tell(self, value=None):
        return value

    def gather(self, value):
        return [value, value if self.theirs is None else self.theirs]

    def fail(self, reason):
        self.failures.append(reason)


@pytest.fixture
def paired(monkeypatch):
    """Makes this process 0 of two."""

    def pair(theirs=None):
        line = Line(theirs)
        monkeypatch.setattr(processes, "_line", line)
        monkeypatch.setattr("jax.process_count", lambda: 2)
        return line

    return pair


def test_alone_nothing_is_asked_and_nothing_ends(tmp_path):
    processes.join()
    processes.check_shared(tmp_path / "absent")
    processes.check_same({"any": 1})
    with processes.in_turn(), processes.failing_together():
        assert (processes.tell(3), processes.gather(4)) == (3, [4])
    assert processes.abandon("no reason", 5) == 5
    processes.leave()


def test_processes_that_joined_otherwise_are_told_how(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="call it in place of jax.distributed.initialize"):
        processes.tell(1)


def test_pictures_of_their_own_sizes_are_for_one_process(paired):
    tiles = InputReader(size=8, fit="tiles", longest=16)
    processes.check_one_shape(tiles)
    paired()
    processes.check_one_shape(InputReader(size=8))
    with pytest.raises(ValueError, match="data.image.fit='tiles' makes batches whose shapes"):
        processes.check_one_shape(tiles)


def test_a_workdir_that_is_not_shared_names_the_host(paired, tmp_path):
    paired([True, "far"])
    processes.check_shared(tmp_path)
    assert not list(tmp_path.iterdir())
    paired([False, "far"])
    with pytest.raises(ValueError, match="not the same folder everywhere.*process 1 on far"):
        processes.check_shared(tmp_path)


def test_a_file_of_another_run_is_not_the_shared_one(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SHARED_SECONDS", 0.3)
    (tmp_path / "a").write_text("ours")
    assert processes._appears(tmp_path / "a", "ours")
    assert not processes._appears(tmp_path / "a", "theirs")
    assert not processes._appears(tmp_path / "absent" / "a", "ours")


def test_another_config_names_the_process(paired):
    paired()
    processes.check_same({"a": 1, "b": {"c": [1, 2]}})
    paired(["0" * 64, "far"])
    with pytest.raises(ValueError, match="process 1 on far was started with another config"):
        processes.check_same({"a": 1})


def test_a_failure_reaches_the_others_before_anything_is_closed(paired, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    ended = []
    monkeypatch.setattr(lifeline, "leave_now", ended.append)
    line = paired()
    with pytest.raises(OSError, match="disk"), processes.failing_together():
        raise OSError("disk full")
    assert line.failures == ["OSError: disk full"]
    time.sleep(0.5)
    assert ended == [1]  # had closing taken longer


# --- docs/pods.md and scripts/ --------------------------------------------------------------------
def test_the_templates_are_sound():
    shell = sorted(ROOT.glob("scripts/*.sh")) + sorted(ROOT.glob("scripts/*.sbatch"))
    assert len(shell) == 3
    for file in shell:
        assert file.read_text().startswith("#!/usr/bin/env bash\n"), file
        subprocess.run(["bash", "-n", str(file)], check=True)
    documents = {
        file.name: list(yaml.safe_load_all(file.read_text()))
        for file in ROOT.glob("scripts/*.yaml")
    }
    job = documents["job_gpu.yaml"][1]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert pod["subdomain"] == documents["job_gpu.yaml"][0]["metadata"]["name"]
    environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert environment == {"JAX_NUM_PROCESSES": str(job["parallelism"])}
    job = documents["jobset_tpu.yaml"][0]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 16
    for each in (pod, job["template"]["spec"]):
        command = each["containers"][0]["command"]
        assert command[:2] == ["python", "launch.py"] and (ROOT / command[2][9:]).is_file()


def test_the_guide_names_what_exists():
    guide = (ROOT / "docs" / "pods.md").read_text()
    for path in re.findall(r"(?:scripts|configs)/[\w/]+\.\w+", guide):
        assert (ROOT / path).is_file(), path
    flags = (ROOT / "launch.py").read_text()
    for flag in ("coordinator", "processes", "process", "topology"):
        assert f'"{flag}"' in flags
    sources = "".join(
        re.sub(r'"\n\s+f?"', "", (ROOT / "vlm_jax" / name).read_text())
        for name in ("lifeline.py", "processes.py")
    )
    rows = re.findall(r"^\| `(.*?)` \|", guide.split("## If they do not")[1], re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        for part in re.split(r"\W*\.\.\.\W*|\d+", row):
            assert part.strip(" ,") in sources, part
