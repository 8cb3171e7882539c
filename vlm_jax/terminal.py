"""A conversation in the terminal: a line is a turn, or a command that begins with a stroke."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from vlm_jax.chat import Chat

HELP = """a line is a turn; <image> in it stands for the next attached picture
/image PATH   attaches a picture to the next turn
/undo         takes the last turn back
/reset        begins anew
/quit         ends, as the end of the input does"""


def converse(chat: Chat, lines: TextIO, out: TextIO, image: str | None = None) -> int:
    """Answers every line until /quit or the end; 1 if something went wrong on the way, else 0.

    image: attached to the first turn. On a terminal, answers and errors are shown as they are; else
    a JSON object a line goes out for every turn, {"text", "images", "answer"} or {"text", "error"}.
    Nothing that is said ends the conversation.
    """
    told, wrong, waiting = _told(out), 0, [image] if image else []
    if out.isatty():
        print(HELP, file=out)
    for line in _read(lines):
        word, _, rest = line.partition(" ")
        if word == "/quit":
            break
        try:
            if word == "/image":
                waiting.append(_picture(rest.strip()))
            elif line.startswith("/"):
                _command(chat, word, out)
                waiting = []
            else:
                answer = chat.say(line, waiting)
                told({"text": line, "images": waiting, "answer": answer})
                waiting = []
        except (ValueError, OSError) as error:
            told({"text": line, "error": str(error)})
            wrong = 1
    return wrong


def _read(lines: TextIO) -> Iterator[str]:
    """Lines that are not empty; on a terminal with a prompt, and what is typed can be edited."""
    if not lines.isatty():
        yield from filter(None, map(str.strip, lines))
        return
    import readline  # noqa: F401  late: its import changes what input() does

    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _picture(path: str) -> str:
    """The path; FileNotFoundError if there is no such file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"/image {path}: no such file")
    return path


def _command(chat: Chat, word: str, out: TextIO) -> None:
    """What a command does; ValueError for one that there is not."""
    if word == "/reset":
        chat.reset()
    elif word == "/undo":
        chat.undo()
    elif word == "/help":
        print(HELP, file=out)
    else:
        raise ValueError(f"{word} is no command: use /image, /undo, /reset, /help or /quit")


def _told(out: TextIO):
    """A function that shows what a turn came to."""
    if not out.isatty():
        return lambda found: print(json.dumps(found, ensure_ascii=False), file=out, flush=True)
    return lambda found: print(found.get("answer", f"error: {found.get('error')}"), file=out)
