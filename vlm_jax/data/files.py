"""Shards by name, wherever they lie: on disk, or behind gs://, s3://, https:// and others through
fsspec, read by ranges.

A name may hold wildcards, as in "train/*.tar", and braces: "shard-{000000..000127}.tar" counts,
"{train,extra}.tar" lists.
"""

import glob
import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vlm_jax.data.cache import cache_folder
from vlm_jax.data.schema import DataError
from vlm_jax.kwargs import suggestion
from vlm_jax.workdir import atomic_write_bytes

INSTALL = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
"""What pip installs so that fsspec can read a protocol."""

ATTEMPTS = 4
"""How often a remote read is tried, with 1, 2 and 4 seconds in between."""

WORKERS = 16
"""How many files are asked for, or opened, at a time."""

MAX_FILES = 1_000_000
"""How many names the braces of one pattern may stand for."""

_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
_STAMPS += ("created",)  # last, because a store may keep it when the content changes
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class File:
    """A file that exists. size: bytes. stamp: a text that changes whenever the content does."""

    path: str
    size: int
    stamp: str

    @cached_property
    def fingerprint(self) -> str:
        """40 hexadecimal digits of path, size and stamp."""
        return hashlib.sha1(repr((self.path, self.size, self.stamp)).encode()).hexdigest()


def find(patterns: str | Sequence[str]) -> list[File]:
    """The files that one or more patterns name, in their order; those of a wildcard are sorted.

    Raises DataError if a pattern names nothing, if a file of a brace range is missing, if a file is
    named twice, or if the library for its protocol is not installed (with what to install).
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    names = [name for pattern in given for name in braces(os.path.expanduser(pattern))]
    found = [file for files in concurrently(_matches, names) for file in files]
    if not found:
        raise DataError("no shard is named; give a path, a pattern or a list of them")
    seen: set[str] = set()
    for file in found:
        if file.path in seen:
            raise DataError(f"{file.path} is named twice; to weigh it more, use a mixture")
        seen.add(file.path)
    return found


def braces(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for: "{08..10}" is 08, 09, 10; "{a,b}" is a, b.

    DataError for other braces, and above MAX_FILES names.
    """
    inner = re.search(r"\{([^{}]*)\}", pattern)
    if inner is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner[1])
    if span is None and "," not in inner[1]:
        raise DataError(f"{pattern}: braces hold a range, {{000..127}}, or a list, {{a,b}}")
    if span:
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MAX_FILES:
            raise DataError(f"{pattern}: {inner[0]} must count up, over at most {MAX_FILES} files")
    width = len(span[1]) if span else 0
    words = (
        (f"{number:0{width}}" for number in range(int(span[1]), int(span[2]) + 1))
        if span
        else inner[1].split(",")
    )
    for word in words:
        yield from braces(pattern[: inner.start()] + word + pattern[inner.end() :])


def concurrently(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """[function(item) for item in items], WORKERS at a time."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, items))


def is_remote(path: str) -> bool:
    """Whether a path is one for fsspec, such as "gs://bucket/key"."""
    return "://" in path


def open_file(path: str) -> BinaryIO:
    """The file for reading from the start to the end, or here and there."""
    if not is_remote(path):
        return open(path, "rb")
    store, key = _store(path)
    return store.open(key, "rb", block_size=1 << 22, cache_type="readahead")


def read_range(path: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from byte `start`; one request where the file is remote.

    DataError if the file is too short for that. OSError if it cannot be reached: a network that is
    down must stop a run, not make it skip examples.
    """
    if is_remote(path):
        store, key = _store(path)
        content = _again(lambda: store.cat_file(key, start=start, end=start + size), path)
        if len(content) > size:
            raise DataError(
                f"{path}: its server sends whole files instead of ranges; copy the data to a disk "
                "or to a store that can"
            )
    else:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(size)
    if len(content) < size:
        raise DataError(
            f"{path} ends at byte {start + len(content)}, {start + size} are needed: it is cut "
            "off, or was replaced; copy it again"
        )
    return content


def read_all(path: str) -> bytes | None:
    """The whole content of a file, or None if there is no such file."""
    try:
        if not is_remote(path):
            return Path(path).read_bytes()
        store, key = _store(path)
        return _again(lambda: store.cat_file(key), path)
    except FileNotFoundError:
        return None


def write(path: str, content: bytes) -> None:
    """Writes a file whole or not at all; a missing folder is made."""
    if is_remote(path):
        store, key = _store(path)
        store.makedirs(store._parent(key), exist_ok=True)
        store.pipe_file(key, content)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content)


def local_copy(file: File) -> str:
    """A path on this machine's disk: the file's own, or that of a copy in the cache, made once."""
    if not is_remote(file.path):
        return file.path
    copy = cache_folder() / "shards" / f"{file.fingerprint}-{file.path.rsplit('/', 1)[-1]}"
    if not (copy.exists() and copy.stat().st_size == file.size):
        store, key = _store(file.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            _again(lambda: store.get_file(key, str(partial)), file.path)
            os.replace(partial, copy)
        finally:
            partial.unlink(missing_ok=True)
    return str(copy)


def common_folder(paths: Sequence[str]) -> str:
    """What all paths begin with, up to and with the last slash that they share."""
    levels = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}/" for level in shared)


def below(path: str, root: str, ending: str) -> str:
    """A shard's path below the folder that all of them share, without its ending."""
    return path.removeprefix(root).removesuffix(ending)


def _matches(name: str) -> list[File]:
    """The files that a name without braces stands for."""
    if is_remote(name):
        return _remote_matches(name)
    wild = glob.has_magic(name) and not os.path.exists(name)
    paths = sorted(glob.glob(name, recursive=True)) if wild else [name]
    files = [_local(path) for path in paths if os.path.isfile(path)]
    if not files:
        folder, _, last = name.rpartition("/")
        beside = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else None
        raise DataError(_nothing(name, folder or ".", last, beside))
    return files


def _local(path: str) -> File:
    """A file of this machine."""
    status = os.stat(path)
    return File(path, status.st_size, str(status.st_mtime_ns))


def _remote_matches(name: str) -> list[File]:
    """The files that a name with a protocol stands for."""
    store, key = _store(name)
    protocol = name.split("://")[0]
    try:
        if glob.has_magic(key):
            found = _again(lambda: store.glob(key, detail=True), name)
        else:
            found = {key: _again(lambda: store.info(key), name)}
    except FileNotFoundError:
        found = {}
    files = []
    for path, entry in sorted(found.items()):
        if entry["type"] == "file":
            stamp = next((str(entry[known]) for known in _STAMPS if entry.get(known)), "")
            whole = path if is_remote(path) else f"{protocol}://{path.lstrip('/')}"
            files.append(File(whole, int(entry["size"] or 0), stamp))
    if not files:
        folder, _, last = name.rpartition("/")
        raise DataError(_nothing(name, folder, last, _listing(store, store._parent(key))))
    return files


def _listing(store: Any, folder: str) -> list[str] | None:
    """The names in a remote folder, None if there is none or it cannot be listed."""
    try:
        return sorted(str(path).rsplit("/", 1)[-1] for path in store.ls(folder, detail=False))
    except (OSError, ValueError):
        return None


def _nothing(name: str, folder: str, last: str, beside: list[str] | None) -> str:
    """What an error says about a name that stands for nothing. beside: what lies in its folder."""
    if beside is None:
        return f"no file matches {name}: there is no folder {folder}; check the path"
    if not beside:
        return f"no file matches {name}: {folder} is empty"
    some = ", ".join(beside[:5]) + (", ..." if len(beside) > 5 else "")
    return f"no file matches {name}; {suggestion(last, beside)}{folder} holds {some}"


def _store(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path, and the path inside it."""
    protocol = path.split("://")[0]
    try:
        import fsspec
    except ImportError:
        packages = " ".join(["fsspec", *filter(None, [INSTALL.get(protocol)])])
        raise DataError(f"{path}: reading it needs fsspec; run: pip install {packages}") from None
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = INSTALL.get(protocol)
        remedy = f"run: pip install {package}" if package else str(error)
        raise DataError(f"{path}: {protocol}:// needs another library; {remedy}") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}; known: {', '.join(sorted(INSTALL))}") from None


def _again(read: Callable[[], _R], path: str) -> _R:
    """What `read` returns, after as many attempts as it takes; OSError after ATTEMPTS of them."""
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except (OSError, TimeoutError) as error:
            if attempt == ATTEMPTS - 1:
                raise OSError(
                    f"{path} cannot be read after {ATTEMPTS} attempts ({error}); check the network "
                    "and the credentials, then start again: a run goes on where it stopped"
                ) from error
            time.sleep(2**attempt)
    raise AssertionError("the last attempt returns or raises")
