"""Several processes that train or evaluate together: on the hosts of a TPU pod, on GPU nodes, or on
one machine.

    join(coordinator, processes, process)    # before JAX sees its devices; without arguments, found
    ...
    leave()                                  # when all is done

Where there is one process, everything here does nothing and costs nothing. A process that dies or
fails takes the others with it, each of which says why and ends within a minute: the run goes on
from its last checkpoint when all are started again, be they as many as before or not.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from vlm_jax import cluster, lifeline

WAIT_SECONDS = 300
"""How long processes wait for each other at the start."""

SILENT_SECONDS = 40
"""After which JAX takes a process for dead that sends no heartbeat, though its host answers."""

GRACE_SECONDS = 20
"""How long a process that failed may take to close its files before it is ended."""

SHARED_SECONDS = 60
"""How long a file may take to appear on other hosts: network file systems remember what was not
there."""

_line: lifeline.Lifeline | None = None


# --- coming and going -----------------------------------------------------------------------------
def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: float = WAIT_SECONDS,
    preemptible: bool = True,
) -> None:
    """Connects this process with the others of its run; does nothing if it is alone.

    coordinator: "host:port" of process 0. processes, process: how many, and which. What is not
    given is found as `cluster.find` says. timeout: seconds to wait for the others. preemptible: a
    SIGTERM is left to `StopRequest`; otherwise it ends the process. Errors as in `cluster.find` and
    `lifeline.meet`; RuntimeError if JAX has been used before.
    """
    global _line
    place = cluster.find(coordinator, processes, process)
    if place is None:
        return
    _line = lifeline.meet(place, timeout)
    address = place.coordinator
    host = address.rpartition(":")[0]
    jax.config.update("jax_enable_preemption_service", preemptible)
    jax.distributed.initialize(
        address,
        place.processes,
        place.process,
        local_device_ids=None if place.device is None else [place.device],
        cluster_detection_method="deactivate",
        initialization_timeout=int(timeout),
        heartbeat_timeout_seconds=SILENT_SECONDS,
        shutdown_timeout_seconds=SILENT_SECONDS,
        # A run on one machine listens to nobody else.
        coordinator_bind_address=address if host in ("127.0.0.1", "localhost", "[::1]") else None,
    )
    sys.excepthook = _ending_after(sys.excepthook)
    if place.process == 0:
        print(f"{place.processes} processes, found by {place.found}", flush=True)


def leave() -> None:
    """Parts from the other processes, once all of them are done."""
    global _line
    if _line is not None:
        _line.close()
        _line = None
        jax.distributed.shutdown()


def abandon(reason: str, code: int = 1) -> int:
    """Ends this process at once, and tells the others why, if there are any; else returns `code`.

    What JAX does at a normal end waits for all processes, and some may wait for this one.
    """
    if _line is not None:
        _line.fail(reason)
        lifeline.leave_now(code)
    return code


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Context in which an exception is told to the other processes at once, and in which closing
    what an exception leaves open may not hang.
    """
    try:
        yield
    except BaseException as error:
        if _line is not None:
            # A dead process breaks the collectives of the others: what broke is no news to them,
            # and who died arrives in a moment.
            if isinstance(error, jax.errors.JaxRuntimeError):
                time.sleep(2)
            _line.fail(f"{type(error).__name__}: {error}")
            timer = threading.Timer(GRACE_SECONDS, lifeline.leave_now, (1,))
            timer.daemon = True
            timer.start()
        raise


def _ending_after(show: Callable) -> Callable:
    """An excepthook that ends the process after what `show` prints."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show(kind, error, trace)
        abandon(f"{kind.__name__}: {error}")

    return hook


# --- agreeing -------------------------------------------------------------------------------------
def is_first() -> bool:
    """Whether this is process 0, which writes what all have."""
    return jax.process_index() == 0


def tell(value: Any = None) -> Any:
    """The value of process 0 in every process; waits for it. value: what JSON can hold."""
    return value if jax.process_count() == 1 else _connected().tell(value)


def gather(value: Any) -> list[Any]:
    """The values of all processes, by number, in every process; waits for all."""
    return [value] if jax.process_count() == 1 else _connected().gather(value)


def wait_for_all() -> None:
    """Returns when all processes are here. Before computations that need all of them: on CPUs, one
    that is 30 s late to the first of a kind is given up by the others.
    """
    gather(None)


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Context that process 0 goes through first and the others afterwards, so that they find what
    it has written.
    """
    if not is_first():
        tell()
    yield
    if is_first():
        tell()


def check_same(config: Any) -> None:
    """ValueError, naming the processes, unless all have the same config as process 0."""
    mine = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    others = gather([mine, socket.gethostname()])
    apart = [f"{n} on {host}" for n, (one, host) in enumerate(others) if one != others[0][0]]
    if apart:
        raise ValueError(
            f"process {', '.join(apart[:5])} was started with another config than process 0 on "
            f"{others[0][1]}: give the same flags, and the same code, to all processes"
        )


def check_one_shape(read: Any) -> None:
    """ValueError unless the batches that an `InputReader` makes have one shape in all processes."""
    if read.ragged and jax.process_count() > 1:
        raise ValueError(
            f"data.image.fit={read.fit!r} makes batches whose shapes depend on their pictures, "
            "which several processes cannot share: use one, or set data.image to squares of one "
            "size, or, for regions, its `most`"
        )


def check_shared(folder: str | Path) -> None:
    """ValueError, naming the hosts, unless all processes see the same existing folder here."""
    if jax.process_count() == 1:
        return
    file = Path(folder) / ".shared"
    token = tell(uuid.uuid4().hex if is_first() else None)
    if is_first():
        file.write_text(token)
    tell()
    seen = gather([_appears(file, token), socket.gethostname()])
    if is_first():
        file.unlink(missing_ok=True)
    apart = [f"{number} on {host}" for number, (sees, host) in enumerate(seen) if not sees]
    if apart:
        raise ValueError(
            f"workdir {folder} is not the same folder everywhere: what process 0 on {seen[0][1]} "
            f"writes there is not seen by process {', '.join(apart[:5])}. Use a folder of a file "
            "system that all hosts share, such as NFS or a mounted bucket"
        )


def _appears(file: Path, content: str) -> bool:
    """Whether a file with this content is there, or comes in time."""
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            os.listdir(file.parent)  # makes network file systems look again
            if file.read_text() == content:
                return True
        if time.monotonic() > deadline or not file.parent.is_dir():
            return False
        time.sleep(0.2)


def _connected() -> lifeline.Lifeline:
    if _line is None:
        raise RuntimeError(
            "JAX has several processes that are not connected by vlm_jax.processes.join(): call it "
            "in place of jax.distributed.initialize()"
        )
    return _line


# --- stopping -------------------------------------------------------------------------------------
class StopRequest:
    """SIGTERM or Ctrl-C ask the loop to save and stop, all processes at the same step; alone, a
    second one ends the program at once.

        with StopRequest() as stopping:
            while ...:
                if stopping.at(step): save and stop

    Where there are several processes, JAX takes SIGTERM in any of them for the notice that its
    scheduler sends, and agrees with the others, in the background, on a step that none has reached.
    """

    def __enter__(self) -> "StopRequest":
        self._requested, self._before = False, {}
        self._several = jax.process_count() > 1
        try:
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # not the main thread, as in some notebooks: signals go elsewhere
            logging.info("not in the main thread: SIGTERM will not save a checkpoint")
        return self

    def _request(self, number: int, frame: Any) -> None:
        self._requested = True
        signal.signal(number, self._before[number])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def at(self, step: int) -> bool:
        """Whether to save and stop after this step; to be asked once after every step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
