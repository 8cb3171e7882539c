"""The folder of a run: owned by one process at a time, and by one config for ever.

    workdir/
      config.json      the resolved config      versions.json   packages, Python, git, platform
      checkpoints/     see checkpoint.py        metrics.jsonl, timing.jsonl, tensorboard/   logs.py

Files are written whole or not at all.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vlm_jax.kwargs import Config

CONFIG, VERSIONS, LOCK = "config.json", "versions.json", ".lock"
HARMLESS = (
    "total_steps",
    "total_examples",
    "total_epochs",
    "checkpoint",
    "evals",
    "expected",
    "logs",
    "mesh",
)
"""Top-level config keys that may differ between two runs of one workdir: a run may be prolonged,
watched in another way or moved to other devices, but what a step computes stays what it was."""

PACKAGES = (
    "array_record",
    "flax",
    "grain",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pillow",
    "tensorflow-datasets",
    "tokenizers",
)


# --- the run's folder -----------------------------------------------------------------------------
@contextlib.contextmanager
def open_workdir(
    path: str | Path, config: Config, *, harmless: Sequence[str] = HARMLESS, owner: bool = True
) -> Iterator[Path]:
    """Context in which this process owns a workdir; yields its absolute path.

    path: created if absent. config: mapping or ConfigDict; stored as config.json, beside
    versions.json. harmless: top-level keys that may differ from the stored config. owner: False in
    all but the first process of a distributed run: these take no lock and write nothing. The lock
    ends with the context or with the process, however it ends.

    RuntimeError naming the process that holds the workdir; ValueError naming the keys if it belongs
    to another config; TypeError if the config does not fit in JSON; OSError saying what to do if
    the folder cannot be written.
    """
    path = Path(path).absolute()
    if not owner:
        yield path
        return
    resolved = to_json(config)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if (path / CONFIG).exists():
            check_config(path, resolved, harmless)
        atomic_write_text(path / CONFIG, json.dumps(resolved, indent=2, sort_keys=True) + "\n")
        atomic_write_text(path / VERSIONS, json.dumps(versions(), indent=2) + "\n")
        yield path


def read_config(path: str | Path) -> dict[str, Any]:
    """The stored config of a workdir. FileNotFoundError if `path` is no workdir, ValueError if the
    file is broken.
    """
    file = Path(path) / CONFIG
    if not file.exists():
        raise FileNotFoundError(f"{path} is not the workdir of a run: it has no {CONFIG}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read ({error}): restore it, or use another workdir"
        ) from error


def check_config(path: str | Path, config: Config, harmless: Sequence[str] = HARMLESS) -> None:
    """ValueError naming every key, with both values, in which `config` differs from the workdir's,
    but for harmless ones.
    """
    stored, given = _leaves(read_config(path)), _leaves(to_json(config))
    absent = "absent"
    differences = [
        f"  config.{key}: {stored.get(key, absent)} in the workdir, {given.get(key, absent)} now"
        for key in sorted({*stored, *given})
        if stored.get(key, absent) != given.get(key, absent) and key.split(".")[0] not in harmless
    ]
    if differences:
        raise ValueError(
            "\n".join(
                [
                    f"{path} belongs to a run with another config; use another workdir or undo:",
                    *differences,
                ]
            )
        )


def to_json(config: Config) -> dict[str, Any]:
    """A config as what JSON gives back: nested dictionaries, lists, strings, numbers, booleans and
    None.

    config: mapping or ConfigDict. TypeError naming the key of a value that JSON cannot hold.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    for key, value in _leaves(plain).items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise TypeError(f"config.{key} is {value!r}, which JSON cannot hold") from error
    return json.loads(json.dumps(plain))


def versions() -> dict[str, Any]:
    """Package versions (None if not installed), Python, platform, and the code's git revision, or
    None outside git.
    """
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return {
        "git_revision": _git_revision(),
        "packages": installed,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _git_revision() -> str | None:
    """Commit of the repository this file lies in, with "+changes" appended if tracked files were
    changed since.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout

    try:
        if not git("ls-files", Path(__file__).name).strip():
            return None  # installed inside someone else's repository
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one from dotted keys to values."""
    if not isinstance(config, Mapping) or (prefix and not config):
        return {prefix: config}
    joined = lambda key: f"{prefix}.{key}" if prefix else str(key)
    return {k: v for key, value in config.items() for k, v in _leaves(value, joined(key)).items()}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclusive lock on a workdir. The kernel drops it when the process ends, so a killed run
    leaves no stale lock.
    """
    with _writing(path):
        file = (path / LOCK).open("a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"workdir {path} is in use by {_holder(file)}: wait for it, stop it, or use "
                "another workdir"
            ) from error
        with _writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
        yield


def _holder(file: BinaryIO) -> str:
    """Who wrote the lock file."""
    file.seek(0)
    return file.read().decode(errors="replace") or "another process"


# --- files written whole or not at all ------------------------------------------------------------
def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Replaces a file by `content`: a reader or a crash sees the old file or the new one, never a
    part.

    OSError saying what to do if the disk is full or the folder is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | Path, content: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, content.encode("utf-8"))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the file system, told with what to do about them."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(
            error.errno,
            f"cannot write {path}: {reason}; free some space, or use a workdir that is writable",
        ) from error
