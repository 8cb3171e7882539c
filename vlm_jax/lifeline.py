"""The connections between the processes of a run beside those of JAX: who is there, who has died
and why, and small values told to all.

Every process holds one TCP connection to process 0 for as long as the run lasts. The kernel closes
it when a process ends, however it ends, and its keep-alive probes notice a host that is gone, so
that nobody is taken for dead who is merely busy. Messages are JSON objects, one a line.
"""

import contextlib
import json
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from vlm_jax.cluster import Place

KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds of silence, between probes, and how many: a host that vanished is found after 30 s."""

HELLO_SECONDS = 10.0

Stop = Callable[[str], None]


class Peer:
    """One connection: whole lines in, whole lines out. process, host: who is at the other end."""

    def __init__(self, connection: socket.socket, process: int = 0, host: str = "?"):
        self.socket, self.process, self.host, self.leaving = connection, process, host, False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # Linux; elsewhere the system's own pace
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """One message; nothing happens if the other end is gone."""
        with self._lock, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None if the other end is gone or does not speak this language."""
        try:
            line = self._file.readline()
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None


class Lifeline:
    """All connections of this process: one each to everybody in process 0, else one to process 0.

    stop: called from a thread of its own with a sentence, once, when another process has died or
    failed; it must end the process.
    """

    def __init__(self, place: Place, peers: list[Peer], stop: Stop):
        self.place, self.peers, self._stop = place, peers, stop
        self._told: queue.Queue[Any] = queue.Queue()
        self._given = {peer.process: queue.Queue() for peer in peers}
        self._leaving, self._stopping = False, threading.Lock()
        for peer in peers:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    def tell(self, value: Any = None) -> Any:
        """The value of process 0 in every process, once process 0 gets here. value: JSON."""
        if self.place.process == 0:
            for peer in self.peers:
                peer.send({"tell": value})
            return value
        return self._told.get()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by number, in every process, once all get here."""
        if self.place.process == 0:
            given = {peer.process: self._given[peer.process].get() for peer in self.peers}
            return self.tell([value, *(given[number] for number in sorted(given))])
        self.peers[0].send({"give": value})
        return self._told.get()

    def fail(self, reason: str) -> None:
        """Tells all others that this process has failed, and why; they stop."""
        self._leaving = True
        for peer in self.peers:
            peer.send({"failed": f"{_name(self.place)} has failed: {reason}"})

    def close(self) -> None:
        """Says goodbye, once all processes do: none takes the end of another for its death then."""
        if self.place.process == 0:
            for peer in self.peers:
                self._given[peer.process].get()
            self._leaving = True
            for peer in self.peers:
                peer.send({"goodbye": True})
        else:
            self.peers[0].send({"bye": True})
            self._told.get()

    def _listen(self, peer: Peer) -> None:
        while message := peer.receive():
            if "tell" in message:
                self._told.put(message["tell"])
            elif "give" in message:
                self._given[peer.process].put(message["give"])
            elif "bye" in message:
                peer.leaving = True
                self._given[peer.process].put(None)
            elif "goodbye" in message:
                self._leaving = True
                self._told.put(None)
            elif "failed" in message:
                self._end(message["failed"])
                return
        if peer.leaving:
            return
        who = _name(self.place._replace(process=peer.process), peer.host)
        self._end(f"{who} has died (killed, out of memory, or its host is gone)")

    def _end(self, reason: str) -> None:
        if self._leaving or not self._stopping.acquire(blocking=False):
            return
        for peer in self.peers:  # in process 0, which alone knows everybody
            peer.send({"failed": reason})
        self._stop(reason)


def meet(place: Place, timeout: float, stop: Stop | None = None) -> Lifeline:
    """Waits until all processes are there, and connects them. timeout: seconds.

    Raises, in every process that can still be told, ValueError if they disagree on how many they
    are or two claim one number, TimeoutError naming who is missing, OSError if process 0 cannot
    listen at the coordinator's address.
    """
    deadline = time.monotonic() + timeout
    peers = _host(place, deadline) if place.process == 0 else [_visit(place, deadline)]
    return Lifeline(place, peers, stop or end_now)


def end_now(reason: str) -> NoReturn:
    """Says why, and ends this process without waiting for anything that could hang."""
    print(
        f"error: {reason}. All processes stop; the same command goes on from the last checkpoint",
        file=sys.stderr,
    )
    leave_now(1)


def leave_now(code: int) -> NoReturn:
    """Ends the process: nothing is closed that could wait for another process."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _name(place: Place, host: str | None = None) -> str:
    return f"process {place.process} of {place.processes} on {host or socket.gethostname()}"


def _address(place: Place) -> tuple[str, int]:
    host, _, port = place.coordinator.rpartition(":")
    return host.strip("[]"), int(port)


# --- process 0 ------------------------------------------------------------------------------------
def _host(place: Place, deadline: float) -> list[Peer]:
    """Process 0: a connection to every other process, once all of them have come."""
    peers: dict[int, Peer] = {}
    with _listening(place) as listener:
        while len(peers) < place.processes - 1:
            ready, _, _ = select.select([listener], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                _reject(peers, _missing(place, peers), TimeoutError)
            peer = _welcome(listener.accept()[0], place, peers)
            if peer is not None:
                peers[peer.process] = peer
    for peer in peers.values():
        peer.send({"welcome": socket.gethostname()})
    return list(peers.values())


def _listening(place: Place) -> socket.socket:
    """A socket at the coordinator's port; JAX's own service takes the port over when it closes."""
    host, port = _address(place)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        family, address = found[0], found[4]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # so that a launcher may hold the port for us
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
        loopback = str(address[0]).startswith("127.") or address[0] == "::1"
        listener.bind((address[0] if loopback else everywhere, port))
        listener.listen(1024)
    except OSError as error:
        raise OSError(
            error.errno,
            f"process 0 on {socket.gethostname()} cannot listen at {place.coordinator}: "
            f"{error.strerror or error}. Is another run using the port, or is this not the host of "
            "process 0? --coordinator=HOST:PORT gives another one to all processes",
        ) from error
    return listener


def _welcome(connection: socket.socket, place: Place, peers: dict[int, Peer]) -> Peer | None:
    """The process behind a connection; None for a stranger, such as a port scanner."""
    connection.settimeout(HELLO_SECONDS)
    peer = Peer(connection)
    hello = peer.receive() or {}
    if not {"process", "processes", "host"} <= hello.keys():
        connection.close()
        return None
    connection.settimeout(None)
    peer.process, peer.host = hello["process"], hello["host"]
    others = {**peers, -1: peer}
    if hello["processes"] != place.processes:
        _reject(
            others,
            f"process {peer.process} on {peer.host} was started as one of {hello['processes']}, "
            f"process 0 on {socket.gethostname()} as one of {place.processes}: give the same "
            "--processes to all, or stop what is left of an earlier run",
        )
    if peer.process in peers or not 0 < peer.process < place.processes:
        first = peers[peer.process].host if peer.process in peers else socket.gethostname()
        _reject(
            others,
            f"there are two processes {peer.process} of {place.processes}, on {first} and on "
            f"{peer.host}: give every process its own --process",
        )
    return peer


def _missing(place: Place, peers: dict[int, Peer]) -> str:
    absent = [number for number in range(1, place.processes) if number not in peers]
    named = ", ".join(map(str, absent[:10])) + ", ..." * (len(absent) > 10)
    return (
        f"{len(absent)} of {place.processes} processes have not come to {place.coordinator}: "
        f"{named}. Start the same command on every host (gcloud: --worker=all; srun), and let them "
        "reach that port"
    )


def _reject(peers: dict[int, Peer], reason: str, kind: type[Exception] = ValueError) -> NoReturn:
    for peer in peers.values():
        peer.send({"rejected": reason})
    raise kind(reason)


# --- all others -----------------------------------------------------------------------------------
def _visit(place: Place, deadline: float) -> Peer:
    """Any other process: its connection to process 0, once everybody is there."""
    peer = Peer(_connect(place, deadline))
    peer.send(
        {"process": place.process, "processes": place.processes, "host": socket.gethostname()}
    )
    reply = peer.receive() or {}
    if "rejected" in reply:
        raise ValueError(reply["rejected"])
    if "welcome" not in reply:
        raise TimeoutError(
            f"process 0 at {place.coordinator} went away before all {place.processes} processes "
            "were there: see its output"
        )
    peer.host = reply["welcome"]
    return peer


def _connect(place: Place, deadline: float) -> socket.socket:
    """A connection to process 0, tried until the deadline: it may start later than this one."""
    waited, error = time.monotonic(), None
    while True:
        try:
            connection = socket.create_connection(_address(place), timeout=5)
            connection.settimeout(None)
            return connection
        except OSError as failure:
            error = failure
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"process {place.process} on {socket.gethostname()} cannot reach process 0 at "
                f"{place.coordinator} ({error}): is it running there, and may this host connect to "
                "that port? --coordinator=HOST:PORT gives another address to all processes"
            ) from error
        if time.monotonic() - waited > 30:
            print(f"waiting for process 0 at {place.coordinator} ({error})", file=sys.stderr)
            waited = time.monotonic()
        time.sleep(0.2)
