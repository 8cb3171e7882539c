"""Ctrl-C, where it must wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until this is over, and is then what it was before.

    For a program that takes its arguments away (donated buffers), together with the line that keeps
    what it returns. In other threads than the main one, where Ctrl-C never arrives, nothing is
    done.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[Any] = []
    signal.signal(signal.SIGINT, lambda *given: pressed.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):
            before(*pressed[0])
