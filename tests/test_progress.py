import io

import jax
import pytest

from vlm_jax.progress import Progress, format_number, format_seconds


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def run(progress, clock, steps, waiting=0.25, working=0.75):
    for step in steps:
        with progress.waiting():
            clock.now += waiting
        clock.now += working
        progress.update(step, loss=1 / step)


def test_rates_leave_out_the_first_step_and_pauses():
    clock = Clock()
    progress = Progress(10, batch_size=32, file=io.StringIO(), clock=clock)
    clock.now += 60  # compilation
    assert progress.timing() == {}
    assert progress.total() == {}
    run(progress, clock, range(1, 5))
    with progress.paused():
        clock.now += 100
    expected = {"steps_per_second": 1.0, "examples_per_second": 32.0, "waiting_share": 0.25}
    assert progress.timing() == pytest.approx(expected)
    assert progress.timing() == {}
    run(progress, clock, range(5, 7), waiting=2, working=0)
    assert progress.timing() == pytest.approx(
        {"steps_per_second": 0.5, "examples_per_second": 16, "waiting_share": 1}
    )
    assert progress.total()["waiting_share"] == pytest.approx((3 * 0.25 + 4) / 7)


def test_lines_when_the_output_is_no_terminal():
    clock, file = Clock(), io.StringIO()
    with Progress(6000, 32, start=4990, interval=5, file=file, clock=clock) as progress:
        run(progress, clock, range(4991, 5003))
        progress.print("saved")
    lines = file.getvalue().splitlines()
    assert lines[0] == "step 4,991/6,000, loss 0.0002004"
    assert lines[1] == (
        "step 4,996/6,000, loss 0.0002002, 32 examples/s, 16:44 left, 25% waiting for data"
    )
    assert lines[2].startswith("step 5,001/6,000")
    assert lines[3:] == ["saved"]


def test_the_last_step_is_always_shown_and_values_persist():
    clock, file = Clock(), io.StringIO()
    progress = Progress(3, 1, interval=1e9, file=file, clock=clock)
    run(progress, clock, range(1, 3))
    clock.now += 1
    progress.update(3)
    assert [line.split(",")[:2] for line in file.getvalue().splitlines()] == [
        ["step 1/3", " loss 1"],
        ["step 3/3", " loss 0.5"],
    ]


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with Progress(2, 1, file=file) as progress:
        progress.update(1, loss=0.25)
        progress.update(2, loss=0.125)
    assert "step 2/2, loss 0.125" in file.getvalue()


def test_only_the_first_process_shows_anything(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    file = io.StringIO()
    with Progress(1, 1, file=file) as progress:
        progress.update(1, loss=1.0)
        progress.print("text")
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.0, "3"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (0.123456, "0.1235"),
        (-1.5, "-1.5"),
        (1.2345e-5, "1.234e-05"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "0:07"), (59.9, "1:00"), (754, "12:34"), (11045, "3:04:05"), (float("inf"), "?")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
