"""Checkpoints on disk: written in the background, by all processes of a run, verified before use,
readable onto any number of devices and processes.

A checkpoint of step N is the folder `N`, made by orbax, with the items `state` (arrays) and `data`
(JSON), and our `manifest.json` with the size and CRC-32 of every file of the items. All of it is
written in a temporary folder that is renamed when it is complete, so that a process killed at any
moment leaves either a whole checkpoint or none. States are stored as nested dictionaries of plain
arrays: no class of this codebase, of Flax or of optax is needed to read one.

This is the only file that knows orbax.
"""

import itertools
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vlm_jax import processes, trees
from vlm_jax.workdir import atomic_write_text

MANIFEST = "manifest.json"
SUBFOLDER = "checkpoints"
"""Where a workdir keeps its checkpoints."""

NONE, ALL_DAMAGED = -1, -2
"""What stands for a step when there is no checkpoint, and when there is no sound one."""

SHARED = 2**20
"""Bytes from which on devices that all hold an array write a piece of it each. Cutting a smaller
one takes longer than writing it: a program is compiled for every shape."""


class Checkpointer:
    """Saves and restores the states of one run.

    folder: created if absent; to be used by one run at a time. keep_last: newest checkpoints to
    keep (at least 1), None for all. keep_every: also keep, for ever, those whose step is a multiple
    of this.
    """

    def __init__(
        self, folder: str | Path, *, keep_last: int | None = 2, keep_every: int | None = None
    ):
        for name, value in (("keep_last", keep_last), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise ValueError(
                    f"config.checkpoint.{name} is {value}: it must be at least 1, or None"
                )
        self.folder = Path(folder).absolute()
        self._saving: int | None = None
        processes.wait_for_all()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every,
            cleanup_tmp_directories=True,  # what killed processes left
            lightweight_initialize=True,  # a damaged checkpoint must not prevent opening the folder
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._manager = ocp.CheckpointManager(
            self.folder, item_handlers=_handlers(), options=options
        )

    def save(self, step: int, state: trees.Tree, data_state: Mapping[str, Any]) -> None:
        """Starts saving; returns once the values are safe from donation. Does nothing if `step` is
        saved already.

        state: pytree of arrays (typed PRNG keys, NumPy arrays and Python numbers included).
        data_state: what JSON can hold. RuntimeError if this or the previous save failed, as on a
        full disk.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._saving = step
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(
                trees.unflatten({p: _plain(x) for p, x in trees.flatten(state).items()})
            ),
            data=ocp.args.JsonSave(dict(data_state)),
        )
        self._attempt(lambda: self._manager.save(step, args=items, force=True))

    def restore(self, like: trees.Tree) -> tuple[int, trees.Tree, dict[str, Any]] | None:
        """(step, state, data_state) from the newest sound checkpoint, or None if none was ever
        saved.

        like: the state's structure as arrays or jax.ShapeDtypeStruct. Leaves arrive with its
        shardings, or as NumPy arrays where it has none. A damaged checkpoint is named in a warning,
        moved aside to `damaged-N`, and the one before is used. RuntimeError if all are damaged;
        ValueError listing the differences if the state has another structure.
        """
        self.wait()
        step = processes.tell(self._newest_sound() if processes.is_first() else None)
        self._manager.reload()
        if step == NONE:
            return None
        if step == ALL_DAMAGED:
            raise RuntimeError(
                f"every checkpoint in {self.folder} is damaged: restore one from a backup, or "
                "start again in another workdir"
            )
        flat = trees.flatten(like)
        self._check_structure(step, flat)
        target = trees.unflatten({path: _target(leaf) for path, leaf in flat.items()})
        items = ocp.args.Composite(state=_restore_args(target), data=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        values = trees.flatten(restored["state"])
        state = trees.map_with_path(lambda path, x: _revive(values[path], x), like)
        return step, state, restored["data"]

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when nothing is being written. RuntimeError if the last save failed."""
        self._attempt(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits and lets go of the folder. RuntimeError if the last save failed."""
        self.wait()
        self._manager.close()

    def _attempt(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (
            Exception
        ) as error:  # orbax and tensorstore raise many kinds for a full or vanished disk
            raise RuntimeError(
                f"saving checkpoint {self._saving} to {self.folder} failed "
                f"(is the disk full or gone?): {error}"
            ) from error

    def _write_manifest(self) -> None:
        """Called by orbax when all files are in the temporary folder and before it is renamed."""
        if processes.is_first():
            unfinished = sorted(self.folder.glob(f"{self._saving}.*tmp*"))
            if not unfinished:
                raise RuntimeError(
                    f"orbax keeps no temporary folder for step {self._saving} in {self.folder}"
                )
            atomic_write_text(unfinished[-1] / MANIFEST, json.dumps(_checksums(unfinished[-1])))

    def _newest_sound(self) -> int:
        """Step of the newest checkpoint that equals its manifest, after moving newer ones aside.

        NONE if there are no checkpoints, ALL_DAMAGED, with everything left in place, if none is
        sound.
        """
        steps = _steps(self.folder)
        for number, step in enumerate(steps):
            if _is_sound(self.folder / str(step)):
                for damaged in steps[:number]:
                    _move_aside(self.folder / str(damaged))
                return step
        return ALL_DAMAGED if steps else NONE

    def _check_structure(self, step: int, flat: Mapping[str, Any]) -> None:
        """ValueError if the stored paths, shapes and dtypes are not those of `flat`."""
        metadata = trees.flatten(_metadata(self._manager, step))
        stored = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in metadata.items()}
        targets = {path: _target(leaf) for path, leaf in flat.items()}
        wanted = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in targets.items()}
        differences = [
            f"{path}: here {wanted.get(path, 'absent')}, stored {stored.get(path, 'absent')}"
            for path in sorted({*stored, *wanted})
            if stored.get(path) != wanted.get(path)
        ]
        if differences:
            more = f" and {len(differences) - 8} more" if len(differences) > 8 else ""
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: "
                + "; ".join(differences[:8])
                + more
            )


def load_params(folder: str | Path, name: str = "params") -> dict[str, np.ndarray]:
    """One entry of the newest sound checkpoint's state, path to NumPy array; reads nothing else and
    changes nothing.

    folder: a workdir or its checkpoint folder. name: top-level key of the state, such as "params",
    "ema", "batch_stats". Damaged checkpoints are passed over with a warning. FileNotFoundError if
    there is no sound one, KeyError, naming what there is, if the state has no such entry.
    """
    folder = Path(folder).absolute()
    folder = folder / SUBFOLDER if (folder / SUBFOLDER).is_dir() else folder
    for step in _steps(folder):
        if _is_sound(folder / str(step)):
            return _read_entry(folder, step, name)
    raise FileNotFoundError(f"no sound checkpoint in {folder}")


def find_damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint folder, as words, or None if every file equals its manifest.
    Reads every byte.
    """
    checkpoint = Path(checkpoint)
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        for name, (size, crc) in manifest.items():
            actual = (checkpoint / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes instead of {size}"
            if _crc32(checkpoint / name) != crc:
                return f"the content of {name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(checkpoint)} is missing"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"unreadable: {error}"
    return None


def _is_sound(checkpoint: Path) -> bool:
    """Whether a checkpoint is undamaged; a damaged one is named in a warning."""
    problem = find_damage(checkpoint)
    if problem is not None:
        logging.warning("checkpoint %s is damaged (%s): using the one before", checkpoint, problem)
    return problem is None


def _move_aside(checkpoint: Path) -> None:
    """Renames the folder N to damaged-N, or damaged-N-2 and so on if there is one."""
    names = itertools.chain(("",), (f"-{number}" for number in itertools.count(2)))
    free = (checkpoint.with_name(f"damaged-{checkpoint.name}{name}") for name in names)
    aside = next(path for path in free if not path.exists())
    checkpoint.rename(aside)
    logging.warning("moved %s to %s", checkpoint, aside.name)


def _steps(folder: Path) -> list[int]:
    """Steps of all finished checkpoint folders, newest first."""
    children = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(child.name) for child in children if child.name.isdecimal()), reverse=True)


def _checksums(folder: Path) -> dict[str, tuple[int, int]]:
    """Relative path of every file of every item to (bytes, CRC-32).

    The files beside the items are orbax's notes, which it changes once more after renaming.
    """
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, _crc32(path)) for path in files}


def _crc32(path: Path) -> int:
    """CRC-32 of a file, read in pieces of 16 MiB."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(2**24):
            crc = zlib.crc32(piece, crc)
    return crc


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """How each item is stored."""
    arrays = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    return {
        "state": ocp.PyTreeCheckpointHandler(type_handler_registry=arrays),
        "data": ocp.JsonCheckpointHandler(),
    }


def _restore_args(target: trees.Tree) -> ocp.args.PyTreeRestore:
    """A request for arrays of the shapes, dtypes and shardings of `target`."""
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(item=target, restore_args=arguments)


def _metadata(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Nested dictionary of shapes and dtypes of a stored state."""
    return manager.item_metadata(step)["state"].tree


def _read_entry(folder: Path, step: int, name: str) -> dict[str, np.ndarray]:
    """One top-level entry of a stored state, as NumPy arrays."""
    options = ocp.CheckpointManagerOptions(
        create=False, lightweight_initialize=True, save_root_metadata=False
    )
    with ocp.CheckpointManager(folder, item_handlers=_handlers(), options=options) as manager:
        tree = _metadata(manager, step)
        if name not in tree:
            raise KeyError(
                f"checkpoint {folder / str(step)} has no {name!r}, only {', '.join(sorted(tree))}"
            )
        entry = {name: tree[name]}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), entry)
        restore = ocp.args.PyTreeRestore(item=entry, restore_args=as_numpy, partial_restore=True)
        return trees.flatten(
            manager.restore(step, args=ocp.args.Composite(state=restore))["state"][name]
        )


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """What is stored for a leaf: typed PRNG keys as their u32 data, Python numbers as arrays."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _target(leaf: Any) -> Any:
    """What orbax is asked for: an array on the leaf's devices, or a NumPy array."""
    plain = jax.eval_shape(_plain, leaf)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.empty(plain.shape, plain.dtype)
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=sharding)


def _revive(value: Any, like: Any) -> Any:
    """The leaf that `_plain` made `value` from."""
    if not _is_key(like):
        return value
    kind: list = []  # key_impl wants an array, and sees one while it is traced
    jax.eval_shape(lambda key: kind.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(value, impl=kind[0])
