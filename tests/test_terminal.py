"""Lines in, answers out: what a conversation on a terminal or through a pipe looks like."""

import io
import json

import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.terminal import HELP, converse


class Parrot:
    """Says what it is told, and how many turns and pictures it knows."""

    def __init__(self):
        self.turns = []

    def say(self, text, images):
        if text == "bad":
            raise DataError("a picture is broken")
        self.turns.append(text)
        return f"{text}, {len(images)} pictures, turn {len(self.turns)}"

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


def test_people_see_plain_answers():
    class Screen(io.StringIO):
        def isatty(self):
            return True

    _, out = talk("hello", "/undo", "/undo", out=Screen())
    assert out == f"{HELP}\nhello, 0 pictures, turn 1\nerror: there is no turn to take back\n"
