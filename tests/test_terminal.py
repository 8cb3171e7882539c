"""Lines in, answers out: what a conversation on a terminal or through a pipe looks like."""

import io
import json

import pytest

from vlm_jax.chat import Pace, Turn
from vlm_jax.data.schema import DataError
from vlm_jax.terminal import HELP, STOPPED, converse


class Parrot:
    """Says what it is told, and how many turns and pictures it knows."""

    pace = None

    def __init__(self):
        self.turns = []

    def say(self, text, images):
        if text == "bad":
            raise DataError("a picture is broken")
        answer = f"{text}, {len(images)} pictures, turn {len(self.turns) + 1}"
        self.turns.append(Turn(text, len(images), answer))
        return answer

    def stream(self, text, images):
        """The answer, word by word."""
        for number, word in enumerate(self.say(text, images).split(" ")):
            yield f" {word}" if number else word

    def reset(self):
        self.turns = []

    def undo(self):
        if not self.turns:
            raise ValueError("there is no turn to take back")
        self.turns.pop()


def talk(*lines, image=None, out=None):
    out = io.StringIO() if out is None else out
    code = converse(Parrot(), io.StringIO("\n".join(lines)), out, image)
    return code, out.getvalue()


def answers(*lines, **given):
    code, out = talk(*lines, **given)
    rows = [json.loads(line) for line in out.splitlines()]
    return code, [row.get("answer", row.get("error")) for row in rows]


def test_every_line_is_answered_in_a_line_of_json_until_quit(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    code, found = answers(
        "hello", "", f"/image {path}", "what", "why", "/quit", "never", image="b.png"
    )
    assert code == 0
    assert found == [
        "hello, 1 pictures, turn 1",
        "what, 1 pictures, turn 2",
        "why, 0 pictures, turn 3",
    ]
    code, out = talk("hello", image="b.png")
    assert json.loads(out)["images"] == ["b.png"]


def test_turns_are_taken_back_and_begun_anew():
    code, found = answers("a", "b", "/undo", "c", "/reset", "d")
    assert code == 0 and [text[-1] for text in found] == ["1", "2", "2", "1"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/image nowhere.png", "/image nowhere.png: no such file"),
        ("/undo", "no turn to take back"),
        ("/what", "/what is no command: use /image, /undo, /reset, /help or /quit"),
        ("bad", "a picture is broken"),
    ],
)
def test_mistakes_are_told_and_end_nothing(line, sentence):
    code, found = answers(line, "still there")
    assert code == 1 and sentence in found[0] and found[1] == "still there, 0 pictures, turn 1"


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_people_see_plain_answers():
    _, out = talk("hello", "/undo", "/undo", out=Screen())
    assert out == f"{HELP}\nhello, 0 pictures, turn 1\nerror: there is no turn to take back\n"


class Slow(Parrot):
    """Is stopped by Ctrl-C where it would say "stop", and has Turns."""

    pace = Pace(3, 0.25, 1.25)

    def stream(self, text, images):
        shown = ""
        for word in text.split():
            if word == "stop":
                self.turns += [Turn(text, len(images), shown)] if shown else []
                raise KeyboardInterrupt
            if word == "bad":
                raise DataError("a picture is broken")
            piece = f" {word}" if shown else word
            shown += piece
            yield piece
        self.turns.append(Turn(text, len(images), {"wrong": "right"}.get(shown, shown)))


def screened(*lines, **given):
    """What people see after the help."""
    out = Screen()
    converse(Slow(), io.StringIO("\n".join(lines)), out, **given)
    return out.getvalue().removeprefix(f"{HELP}\n")


def test_an_answer_that_is_stopped_ends_nothing_else():
    assert screened("one stop two", "three") == f"one{STOPPED}\nthree\n"


def test_pictures_wait_for_the_next_turn_where_nothing_was_said(tmp_path):
    assert screened("stop", image="a.png") == f"{STOPPED}\n"
    chat = Slow()
    converse(chat, io.StringIO("stop\nwhat\nwhy"), Screen(), "a.png")
    assert [turn.pictures for turn in chat.turns] == [1, 0]


def test_an_error_in_the_midst_of_an_answer_has_a_line_of_its_own():
    assert screened("one bad") == "one\nerror: a picture is broken\n"


def test_an_answer_whose_letters_change_in_the_end_is_shown_again():
    assert screened("wrong") == "wrong\nright\n"


def test_how_fast_it_was_is_said_where_it_is_asked_for():
    assert screened("one", speed=True) == (
        "one\n(2.0 tokens/s, 3 tokens, the first after 0.25 s)\n"
    )
    out = io.StringIO()
    converse(Slow(), io.StringIO("hello"), out, speed=True)
    row = json.loads(out.getvalue())
    assert (row["tokens"], row["seconds"]) == (3, 1.25) and row["answer"] == (
        "hello, 0 pictures, turn 1"
    )
