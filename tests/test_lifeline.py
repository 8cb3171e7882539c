"""Connections between threads that stand for processes: meeting, telling, failing, dying."""

import queue
import socket
import threading
import time

import pytest

from vlm_jax.cluster import Place
from vlm_jax.lifeline import meet


def free_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def meeting(counts, numbers=None, timeout=20.0):
    """What `meet` gives each of the processes, or raises; `reasons` is what they stop for."""
    port, made, reasons = free_port(), {}, queue.Queue()

    def come(key, number, count):
        place = Place(f"127.0.0.1:{port}", count, number, None, "test")
        try:
            made[key] = meet(place, timeout, lambda reason: reasons.put((key, reason)))
        except (ValueError, OSError) as error:
            made[key] = error

    numbers = range(len(counts)) if numbers is None else numbers
    tasks = enumerate(zip(numbers, counts, strict=True))
    threads = [threading.Thread(target=come, args=(key, *task)) for key, task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [made[key] for key in range(len(counts))], reasons


def each(lines, ask):
    """`ask` of every line at once, and what comes back."""
    answers = {}
    threads = [
        threading.Thread(target=lambda key=key, line=line: answers.update({key: ask(line)}))
        for key, line in enumerate(lines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [answers[key] for key in range(len(lines))]


def end(line):
    """What the kernel does to the connections of a process that ends; it says nothing any more."""
    line._leaving = True
    for peer in line.peers:
        peer.socket.shutdown(socket.SHUT_RDWR)


def test_values_are_told_and_gathered_and_all_part_in_peace():
    lines, reasons = meeting([3, 3, 3])
    tell = lambda line: line.tell({"from": line.place.process})
    assert each(lines, tell) == [{"from": 0}] * 3
    assert each(lines, lambda line: line.gather(line.place.process**2)) == [[0, 1, 4]] * 3
    each(lines, lambda line: line.close())
    for line in lines:
        end(line)
    time.sleep(0.2)
    assert reasons.empty()


@pytest.mark.parametrize("dead", [0, 2])
def test_who_has_died_is_known_to_all_others(dead):
    lines, reasons = meeting([3, 3, 3])
    end(lines[dead])
    told = dict([reasons.get(timeout=20), reasons.get(timeout=20)])
    assert told.keys() == {0, 1, 2} - {dead}
    for key in told:
        assert f"process {dead} of 3 on {socket.gethostname()} has died" in told[key]


def test_a_failure_is_told_with_its_reason():
    lines, reasons = meeting([3, 3, 3])
    lines[1].fail("ValueError: no such file")
    told = dict([reasons.get(timeout=20), reasons.get(timeout=20)])
    assert told.keys() == {0, 2}
    for reason in told.values():
        assert "process 1 of 3 on" in reason and reason.endswith("ValueError: no such file")


def test_counts_that_disagree_are_named():
    made, _ = meeting([2, 4])
    for error in made:
        assert isinstance(error, ValueError)
        assert "process 1 on" in str(error) and "as one of 4" in str(error)


def test_a_number_given_twice_is_named():
    made, _ = meeting([3, 3, 3], numbers=[0, 1, 1])
    assert all("two processes 1 of 3" in str(error) for error in made)


def test_who_has_not_come_is_named():
    made, _ = meeting([3, 3], numbers=[0, 2], timeout=1.0)
    assert isinstance(made[0], TimeoutError)
    assert all("1 of 3 processes have not come" in str(error) for error in made)
    assert all(": 1. Start the same command on every host" in str(error) for error in made)


def test_a_coordinator_that_does_not_answer_is_named():
    made, _ = meeting([2], numbers=[1], timeout=0.5)
    assert isinstance(made[0], TimeoutError)
    assert "cannot reach process 0 at 127.0.0.1:" in str(made[0])


def test_a_port_in_use_is_an_error_that_says_what_to_do():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = Place(f"127.0.0.1:{other.getsockname()[1]}", 2, 0, None, "test")
        with pytest.raises(OSError, match="cannot listen at .*--coordinator=HOST:PORT"):
            meet(place, 1.0)


def test_strangers_are_ignored():
    port, made = free_port(), []
    place = Place(f"127.0.0.1:{port}", 2, 0, None, "test")
    first = threading.Thread(target=lambda: made.append(meet(place, 20.0)))
    first.start()
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b'{"process": 1}\n'):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                    stranger.sendall(greeting)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    second = meet(place._replace(process=1), 20.0)
    first.join(20)
    assert each([made[0], second], lambda line: line.gather(1)) == [[1, 1], [1, 1]]
