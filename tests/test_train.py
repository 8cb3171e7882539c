"""Runs as a user has them: interrupted, resumed, spread over devices, and gone wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval import blip
from tests import tiny
from vlm_jax import checkpoint, experiment, optim, sharding, step, train, workdir
from vlm_jax.data import pipeline
from vlm_jax.logs import read_lines

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, sys
sys.path.insert(0, {root!r})
import jax
import jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", {cache!r})
from vlm_jax.train import train
train(json.load(open({config!r})), {folder!r})
"""


def start(config, folder):
    """A training process of its own, with one device."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.json"
    file.write_text(json.dumps(config))
    cache = str(jax.config.jax_compilation_cache_dir)
    values = {"root": str(ROOT), "config": str(file), "folder": str(folder), "cache": cache}
    program = PROGRAM.format(**values)
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def wait_until(condition, process):
    """Poll until the condition holds or the process ends."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def state_of(folder):
    """Every array of the newest checkpoint, by path."""
    names = ("params", "ema", "optimizer", "key", "step")
    return {
        f"{name}/{path}": value
        for name in names
        for path, value in checkpoint.load_params(folder, name).items()
    }


def assert_same_run(first, second):
    """Parameters, averages, optimizer state, keys and metrics are equal to the last bit."""
    ours, theirs = state_of(first), state_of(second)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.tobytes() == theirs[path].tobytes(), path
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()


def test_killed_anywhere_the_run_ends_the_same_to_the_last_bit(tmp_path):
    config = tiny.captioner(total_steps=40, checkpoint={"every_steps": 4})
    code, output = finish(start(config, tmp_path / "whole"))
    assert code == 0, output
    killed = tmp_path / "killed"

    def logged(count):
        file = killed / "metrics.jsonl"
        return lambda: file.exists() and len(file.read_bytes().splitlines()) >= count

    def writing():
        return any("tmp" in path.name for path in (killed / "checkpoints").glob("*"))

    interruptions = 0
    for condition in (logged(1), writing, logged(13), writing, logged(27)):
        process = start(config, killed)
        wait_until(condition, process)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            interruptions += 1
        process.communicate()
    code, output = finish(start(config, killed))
    assert code == 0, output
    assert interruptions >= 3
    assert_same_run(tmp_path / "whole", killed)
    assert [line["step"] for line in read_lines(killed / "metrics.jsonl")] == list(range(1, 41))


def test_packed_rows_are_learned_from_and_go_on_to_the_last_bit(tmp_path):
    decoder = tiny.config()["model"]["decoder"] | {"memory": "prepend", "max_length": 160}
    config = tiny.captioner(checkpoint={"every_steps": 3})
    config["data"] = config["data"] | {"packing": {"length": 64, "images": 3}}
    config["model"] = config["model"] | {"decoder": decoder}
    train_twice(config, tmp_path)
    shares = [line.get("padding_share") for line in read_lines(tmp_path / "whole/timing.jsonl")]
    assert 0 < shares[-1] < 0.6


def train_twice(config, folder):
    """Once to the end, once from a checkpoint in the middle: to the same last bit."""
    whole, half = folder / "whole", folder / "half"
    train.train(config, whole)
    shutil.copytree(whole, half)
    steps = sorted(int(path.name) for path in (half / "checkpoints").iterdir())
    assert len(steps) > 1
    shutil.rmtree(half / "checkpoints" / str(steps[-1]))
    train.train(config, half)
    assert_same_run(whole, half)


def test_wrong_texts_and_pictures_are_drawn_the_same_after_a_resume(tmp_path):
    config = workdir.to_json(blip.get_config("smoke"))
    config |= {"total_steps": 4, "evals": {}, "checkpoint": {"every_steps": 2}}
    config |= {"logs": {"every_steps": 1}, "optimizer": config["optimizer"] | {"ema": 0.9}}
    train_twice(config, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_steps": None, "total_epochs": 2}, "total_epochs needs .* give total_steps"),
        ({"tasks": tiny.config()["tasks"]}, "config.data.packing needs one task"),
        ({"tasks": {"captioning": {"per_image": 2}}}, "per_image exclude each other"),
        ({}, 'segments need memory="prepend"'),
    ],
)
def test_what_cannot_be_packed_is_found_before_anything_is_compiled(tmp_path, change, message):
    config = tiny.captioner() | change
    config["model"] = tiny.config()["model"] if len(config["tasks"]) > 1 else config["model"]
    config["data"] = config["data"] | {"packing": {"length": 64}}
    with pytest.raises(ValueError, match=message):
        train.train(config, tmp_path / "run")


def test_sigterm_saves_and_exits_cleanly_and_damage_falls_back(tmp_path):
    config = tiny.captioner(total_steps=2000, checkpoint={"every_steps": 500, "keep_last": 3})
    folder = tmp_path / "run"
    process = start(config, folder)
    file = folder / "metrics.jsonl"
    wait_until(lambda: file.exists() and len(file.read_bytes()) > 2000, process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 0, output
    assert "the same command goes on" in output
    saved = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert read_lines(file)[-1]["step"] == saved

    short = config | {"total_steps": saved + 2, "checkpoint": {"every_steps": 1, "keep_last": 3}}
    assert finish(start(short, folder))[0] == 0
    newest = folder / "checkpoints" / str(saved + 2)
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-20])
    code, output = finish(start(short, folder))
    assert code == 0, output
    assert f"{newest} is damaged" in output
    assert f"going on from step {saved + 1:,}" in output


def test_a_second_process_on_one_workdir_is_refused(tmp_path):
    from vlm_jax import workdir

    config = tiny.captioner()
    with (
        workdir.open_workdir(tmp_path, config),
        pytest.raises(RuntimeError, match=f"in use by process {os.getpid()}"),
    ):
        train.train(config, tmp_path)


def test_nan_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny.captioner(
        total_steps=30,
        optimizer={"name": "sgd", "learning_rate": 1e30},
        checkpoint={"every_steps": 1},
    )
    with pytest.raises(train.Diverged, match=r"not finite at step \d+.*learning_rate"):
        train.train(config, tmp_path)
    for value in checkpoint.load_params(tmp_path).values():
        assert np.isfinite(value).all()


@lru_cache
def prepared():
    """The tiny experiment with a batch, its optimizer and a fresh state."""
    config = tiny.config(data=tiny.config()["data"] | {"augment": None})
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    loader = pipeline.Loader(
        source, setup.read, {name: task.preprocess for name, task in setup.tasks.items()}
    )
    batches = iter(pipeline.train_batches(loader, batch_size=8, seed=0))
    batch = [next(batches) for _ in range(3)]
    init = lambda: step.initial_state(setup, batch[0], 0)
    shapes = jax.eval_shape(init)
    optimizer = optim.make_optimizer(
        {"name": "adamw", "learning_rate": 1e-2}, lambda step: 1.0, shapes["params"]
    )
    frozen = jax.tree.map(lambda _: False, shapes["params"])
    return setup, batch, init, optimizer, frozen


def losses_on(devices, accumulate=1):
    """Losses and final parameters of three steps on a mesh of so many devices."""
    setup, batches, init, optimizer, frozen = prepared()
    mesh = sharding.make_mesh(None, jax.devices()[:devices])
    found = []
    with jax.set_mesh(mesh):
        create = lambda: (state := init()) | {"optimizer": optimizer.init(state["params"])}
        shardings = sharding.state_shardings(mesh, jax.eval_shape(create))
        state = jax.jit(create, out_shardings=shardings)()
        update = jax.jit(step.make_update(setup, optimizer, frozen, accumulate), donate_argnums=0)
        for batch in batches:
            state, losses = update(state, sharding.shard_batch(mesh, batch))
            found.append({name: float(value) for name, value in losses.items()})
    return found


def test_same_global_batch_same_losses_on_one_and_on_eight_devices():
    for one, eight in zip(losses_on(1), losses_on(8), strict=True):
        assert one.keys() == eight.keys()
        for name in one:
            assert one[name] == pytest.approx(eight[name], rel=1e-5, abs=1e-5), name


def test_micro_batches_average_to_the_whole_batch_and_keep_one_sum_of_gradients():
    def gradients(params, statistics, batch, key):
        loss = lambda w: jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        value, grads = jax.value_and_grad(loss)(params["w"])
        return {"w": grads}, ({"loss": value}, {"seen": statistics["seen"] + len(batch["x"])})

    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(12, 5)), "y": rng.normal(size=12)}
    given = ({"w": rng.normal(size=5)}, {"seen": 0}, batch, jax.random.key(0))
    accumulated = step._accumulated(gradients, 4)
    whole, found = gradients(*given), accumulated(*given)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, whole)
    [scan] = [e for e in jax.make_jaxpr(accumulated)(*given).eqns if e.primitive.name == "scan"]
    assert all(out.aval.shape[:1] != (4,) for out in scan.outvars)


def several_texts(which):
    """Losses of the tiny model without dropout on one batch: the texts `which` of every image."""
    config = tiny.config(data=tiny.config()["data"] | {"augment": None})
    config["model"] = {
        name: {**part, "dropout": 0.0} if "dropout" in part else part
        for name, part in config["model"].items()
    }
    for name in ("captioning", "vqa"):
        config["tasks"][name] = config["tasks"][name] | {"per_image": len(which)}
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    rows = []
    for i in range(8):
        picked = {**source[i], "captions": [source[i]["captions"][j] for j in which]}
        picked["questions"] = [source[i]["questions"][j] for j in which]
        texts = {name: make(picked, None) for name, make in setup.preprocess.items()}
        texts["retrieval"] = setup.tasks["retrieval"].preprocess(source[i], None)
        rows.append({"image": setup.read(source[i]["image"], None)[0], **texts})
    batch = pipeline.stack(rows)
    state = step.initial_state(setup, batch, 0)
    losses = step._make_loss(setup, cast=lambda params: params)
    return jax.jit(losses)(state["params"], {}, batch, jax.random.key(0))[1][0]


def test_several_texts_of_an_image_cost_the_mean_of_each_alone():
    together = several_texts([0, 1, 2])
    alone = [several_texts([i]) for i in range(3)]
    assert abs(float(alone[0]["loss/vqa"]) - float(alone[1]["loss/vqa"])) > 1e-3
    for name, value in together.items():
        mean = np.mean([float(losses[name]) for losses in alone])
        assert float(value) == pytest.approx(mean, rel=1e-5), name


def test_a_run_evaluates_reports_and_starts_another(tmp_path):
    metrics = train.train(tiny.config(total_steps=2), tmp_path / "first")
    assert {"captions/CIDEr-D", "answers/accuracy", "search/image_to_text/R@1"} <= metrics.keys()
    assert metrics["captions/n"] == metrics["search/n"] == 11
    assert metrics["answers/n"] == 22
    for file in ("report.html", "config.json", "versions.json", "parameters.txt", "timing.jsonl"):
        assert (tmp_path / "first" / file).stat().st_size
    assert list((tmp_path / "first" / "tensorboard").iterdir())
    answers = (tmp_path / "first" / "predictions" / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 22

    init = {"workdir": str(tmp_path / "first"), "skip": ["text", "fusion", ".*_head"]}
    second = tiny.captioner(total_steps=2, init=init | {"skip": ["text", "fusion", ".*_head"]})
    train.train(second, tmp_path / "second")
    with pytest.raises(ValueError, match=r"unexpected in the loaded weights.*fusion"):
        train.train(second | {"init": str(tmp_path / "first")}, tmp_path / "third")
