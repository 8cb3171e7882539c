import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vlm_jax import trees
from vlm_jax.checkpoint import Checkpointer, find_damage, load_params
from vlm_jax.sharding import make_mesh


def make_state(value: int = 0):
    params = {
        "layer_0": {"kernel": jnp.full((16, 8), float(value)), "bias": jnp.full(8, float(value))}
    }
    return {
        "params": params,
        "ema": jax.tree.map(lambda x: x + 100, params),
        "optimizer": optax.adam(1e-3).init(params),
        "rng": jax.random.fold_in(jax.random.key(3), int(value)),
        "step": jnp.int32(value),
        "half": jnp.full(3, value, jnp.bfloat16),
    }


def assert_same(first, second):
    first, second = trees.flatten(first), trees.flatten(second)
    assert list(first) == list(second)
    for path, leaf in first.items():
        assert leaf.dtype == second[path].dtype, path
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, second[path] = jax.random.key_data(leaf), jax.random.key_data(second[path])
        assert np.asarray(leaf).tobytes() == np.asarray(second[path]).tobytes(), path


def save_steps(folder, steps, **options):
    checkpointer = Checkpointer(folder, **options)
    for step in steps:
        checkpointer.save(step, make_state(step), {"position": step})
    checkpointer.close()


def restore(folder, like=None):
    checkpointer = Checkpointer(folder)
    try:
        return checkpointer.restore(make_state() if like is None else like)
    finally:
        checkpointer.close()


def largest_file(folder: Path) -> Path:
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def test_a_state_survives_to_the_last_bit(tmp_path):
    save_steps(tmp_path, [3])
    step, state, data = restore(tmp_path)
    assert (step, data) == (3, {"position": 3})
    assert jax.tree.structure(state) == jax.tree.structure(make_state())
    assert_same(state, make_state(3))
    assert jax.random.bits(state["rng"]) == jax.random.bits(make_state(3)["rng"])


def test_shapes_without_devices_restore_to_numpy(tmp_path):
    save_steps(tmp_path, [3])
    _, state, _ = restore(tmp_path, jax.eval_shape(make_state))
    assert isinstance(state["params"]["layer_0"]["kernel"], np.ndarray)
    assert_same(state, make_state(3))


def test_nothing_saved_restores_nothing(tmp_path):
    assert restore(tmp_path / "new") is None
    with pytest.raises(FileNotFoundError, match="no sound checkpoint"):
        load_params(tmp_path / "new")


def test_donation_right_after_save_is_safe(tmp_path):
    count = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"w": jnp.zeros(200_000), "step": jnp.int32(0)}
    checkpointer = Checkpointer(tmp_path, keep_last=None)
    for step in range(5):
        checkpointer.save(step, state, {})
        state = count(state)
    checkpointer.close()
    for step in range(5):
        (tmp_path / "one").mkdir()
        (tmp_path / str(step)).rename(tmp_path / "one" / str(step))
        assert np.all(load_params(tmp_path / "one", "w")[""] == step)
        (tmp_path / "one").rename(tmp_path / f"seen-{step}")


def test_restores_onto_other_shardings(tmp_path):
    def place(state, config, spec):
        sharding = NamedSharding(make_mesh(config), spec)
        return jax.device_put(state, sharding)

    state = {"w": jnp.arange(64.0).reshape(16, 4), "key": jax.random.key(0)}
    split = {**state, "w": place(state["w"], {"fsdp": 8}, PartitionSpec("fsdp"))}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, split, {})
    like = place(state, {"data": 4, "tensor": 2}, PartitionSpec())
    like["w"] = place(state["w"], {"data": 4, "tensor": 2}, PartitionSpec(None, "tensor"))
    _, restored, _ = checkpointer.restore(like)
    checkpointer.close()
    assert restored["w"].sharding == like["w"].sharding
    assert restored["key"].sharding.is_equivalent_to(like["key"].sharding, 0)
    assert_same(restored, state)


def test_keep_policies(tmp_path):
    save_steps(tmp_path, range(8), keep_last=2, keep_every=3)
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [0, 3, 6, 7]
    with pytest.raises(ValueError, match=r"config.checkpoint.keep_last is 0"):
        Checkpointer(tmp_path, keep_last=0)


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state(1), {"n": 1})
    checkpointer.save(1, make_state(2), {"n": 2})
    assert checkpointer.steps() == [1]
    assert checkpointer.restore(make_state())[2] == {"n": 1}
    checkpointer.close()


# --- damage ---------------------------------------------------------------------------------------
def truncate(checkpoint):
    path = largest_file(checkpoint)
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(checkpoint):
    path = largest_file(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(checkpoint):
    largest_file(checkpoint).unlink()


def lose_the_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def empty_the_manifest(checkpoint):
    (checkpoint / "manifest.json").write_text("")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "bytes instead of"),
        (flip_a_bit, "has changed"),
        (lose_a_file, "is missing"),
        (lose_the_manifest, "manifest.json is missing"),
        (empty_the_manifest, "unreadable"),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    tmp_path, caplog, damage, words
):
    save_steps(tmp_path, [1, 2])
    assert find_damage(tmp_path / "2") is None
    damage(tmp_path / "2")
    assert words in find_damage(tmp_path / "2")
    assert load_params(tmp_path)["layer_0/bias"][0] == 1
    assert (tmp_path / "2").exists()  # reading weights moves nothing
    step, state, data = restore(tmp_path)
    assert (step, data) == (1, {"position": 1})
    assert_same(state, make_state(1))
    warning = "".join(record.getMessage() for record in caplog.records)
    assert all(part in warning for part in (str(tmp_path / "2"), words, "damaged-2"))
    save_steps(tmp_path, [2])  # training goes on and reaches the step again
    assert restore(tmp_path)[0] == 2


def test_truncating_any_file_never_harms_a_restore(tmp_path):
    save_steps(tmp_path / "sound", [1, 2])
    files = [p.relative_to(tmp_path) for p in (tmp_path / "sound" / "2").rglob("*") if p.is_file()]
    for number, file in enumerate(files):
        folder = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "sound", folder)
        victim = folder / file.relative_to("sound")
        os.truncate(victim, victim.stat().st_size // 2)
        step, state, data = restore(folder)
        assert data == {"position": step}, file
        assert_same(state, make_state(step))
        in_an_item = len(file.parts) > 3
        assert step == (1 if in_an_item or file.name == "manifest.json" else 2), file


def test_the_manifest_lists_every_array_file(tmp_path):
    save_steps(tmp_path, [1])
    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert str(largest_file(tmp_path / "1").relative_to(tmp_path / "1")) in manifest
    assert len(manifest) >= 5


def test_all_damaged_is_an_error_naming_the_folder(tmp_path):
    save_steps(tmp_path, [1, 2])
    truncate(tmp_path / "1")
    truncate(tmp_path / "2")
    for _ in range(2):  # nothing was moved, so that the next attempt does not start from scratch
        with pytest.raises(RuntimeError, match=f"every checkpoint in {tmp_path} is damaged"):
            restore(tmp_path)


def test_a_state_of_another_model_is_an_error_listing_the_differences(tmp_path):
    save_steps(tmp_path, [1])
    like = make_state()
    like["params"]["layer_0"]["kernel"] = jnp.zeros((16, 9))
    del like["half"]
    with pytest.raises(ValueError) as error:
        restore(tmp_path, like)
    assert "half: here absent, stored bfloat16[3]" in str(error.value)
    assert "params/layer_0/kernel: here float32[16, 9], stored float32[16, 8]" in str(error.value)
    assert (tmp_path / "1").exists()


def test_a_failed_save_is_an_error_and_leaves_the_one_before(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    checkpointer = Checkpointer(tmp_path)
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr(
            "vlm_jax.checkpoint.atomic_write_text", lambda *_: (_ for _ in ()).throw(full)
        )
        checkpointer.save(2, make_state(2), {})
        with pytest.raises(RuntimeError, match=r"saving checkpoint 2 to .*No space left on device"):
            checkpointer.wait()
    assert restore(tmp_path)[0] == 1


@contextlib.contextmanager
def no_more_than(size: int):
    """No file of this process can grow beyond so many bytes, as when a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems kill a process at this limit")
def test_a_disk_that_fills_up_during_a_save_is_an_error_and_leaves_the_one_before(tmp_path):
    noise = np.random.default_rng(0).bytes(2**20)  # incompressible
    states = [{"params": {"x": np.frombuffer(noise, np.uint8) ^ i}} for i in (1, 2)]
    checkpointer = Checkpointer(tmp_path)
    save = lambda step: (checkpointer.save(step, states[step - 1], {}), checkpointer.wait())
    save(1)
    with no_more_than(2**16):
        with pytest.raises(RuntimeError, match=r"saving checkpoint 2 to .*is the disk full"):
            save(2)
    step, state, _ = restore(tmp_path, states[1])
    assert step == 1
    assert_same(state, states[0])


# --- weights for another run ----------------------------------------------------------------------
def test_load_params_reads_one_entry_of_a_workdir(tmp_path):
    save_steps(tmp_path / "checkpoints", [1, 2])
    params = load_params(tmp_path)
    assert {path: array.shape for path, array in params.items()} == {
        "layer_0/bias": (8,),
        "layer_0/kernel": (16, 8),
    }
    assert all(isinstance(array, np.ndarray) for array in params.values())
    assert np.all(params["layer_0/kernel"] == 2)
    assert np.all(load_params(tmp_path, "ema")["layer_0/kernel"] == 102)
    with pytest.raises(KeyError, match="has no 'emma', only ema, half, optimizer, params"):
        load_params(tmp_path, "emma")
    merged = trees.merge(make_state()["params"], params)
    assert_same(merged, make_state(2)["params"])


# --- kill -9 --------------------------------------------------------------------------------------
def noise(step):
    """A state that does not compress, so that writing it takes a while."""
    values = np.random.default_rng(step).normal(size=500_000).astype(np.float32)
    return {"a": jnp.asarray(values), "b": [jnp.full(40, float(step))] * 5}


def save_for_ever(folder):
    checkpointer = Checkpointer(folder)
    found = checkpointer.restore(noise(0))
    step = found[0] if found else 0
    while True:
        step += 1
        checkpointer.save(step, noise(step), {"position": step})
        print(step, flush=True)


def test_kill_during_saves_leaves_a_whole_checkpoint(tmp_path):
    random, reached = np.random.default_rng(0), 0
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    for _ in range(3):
        command = [sys.executable, __file__, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        for _ in range(3):
            printed = int(child.stdout.readline())
        time.sleep(random.uniform(0, 0.1))  # save() has returned, and writes in the background
        child.send_signal(signal.SIGKILL)
        printed = int((child.stdout.read().split() or [printed])[-1])
        child.wait()
        step, state, data = restore(tmp_path, noise(0))
        assert max(reached, printed - 1) <= step <= printed + 1
        assert data == {"position": step}
        assert_same(state, noise(step))
        assert all(path.name.isdecimal() for path in tmp_path.iterdir())
        reached = step


if __name__ == "__main__":  # the child of the test above
    save_for_ever(sys.argv[1])
