"""Ctrl-C waits for what must not be cut, and no longer."""

import os
import signal
import threading

import pytest

from vlm_jax.interrupts import undisturbed


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_it_comes_at_the_end_once_everything_is_done():
    done = []

    def work():
        with undisturbed():
            press()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()  # which comes at once


def test_without_it_nothing_happens_and_errors_pass():
    with undisturbed():
        pass
    with pytest.raises(ValueError, match="x"), undisturbed():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_signals_alone():
    found = []

    def work():
        with undisturbed():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
