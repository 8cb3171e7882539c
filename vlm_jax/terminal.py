"""A conversation in the terminal: a line is a turn, or a command that begins with a stroke."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from vlm_jax.chat import Chat

HELP = """a line is a turn; <image> in it stands for the next attached picture
/image PATH   attaches a picture to the next turn
/undo         takes the last turn back
/reset        begins anew
/quit         ends, as the end of the input does"""

STOPPED = " ... (stopped)"
"""Stands behind an answer that Ctrl-C has ended."""


def converse(
    chat: Chat, lines: TextIO, out: TextIO, image: str | None = None, speed: bool = False
) -> int:
    """Answers every line until /quit or the end; 1 if something went wrong on the way, else 0.

    image: attached to the first turn. speed: say how fast each answer was. On a terminal, answers
    appear as they are written, Ctrl-C ends one, and errors are shown as they are; else a JSON
    object a line goes out for every turn, {"text", "images", "answer"}, with `speed` also "tokens"
    and "seconds", or {"text", "error"}. Nothing that is said ends the conversation.
    """
    screen, wrong, waiting = out.isatty(), 0, [image] if image else []
    if screen:
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
            elif screen:
                waiting = [] if _written(chat, line, waiting, out, speed) else waiting
            else:
                found = {"text": line, "images": waiting, "answer": chat.say(line, waiting)}
                _print(found | (_spent(chat) if speed else {}), out)
                waiting = []
        except (ValueError, OSError) as error:
            if screen:
                print(f"error: {error}", file=out)
            else:
                _print({"text": line, "error": str(error)}, out)
            wrong = 1
    return wrong


def _print(found: Mapping[str, Any], out: TextIO) -> None:
    print(json.dumps(found, ensure_ascii=False), file=out, flush=True)


def _spent(chat: Chat) -> dict[str, Any]:
    pace = chat.pace
    return {} if pace is None else {"tokens": pace.tokens, "seconds": round(pace.seconds, 3)}


def _written(chat: Chat, line: str, images: list[str], out: TextIO, speed: bool) -> bool:
    """Shows an answer as it is written; False if it was stopped before there was any."""
    before, shown, end = len(chat.turns), "", ""
    try:
        with closing(chat.stream(line, images)) as pieces:
            for piece in pieces:
                shown += piece
                print(piece, end="", file=out, flush=True)
    except KeyboardInterrupt:
        end = STOPPED
    except (ValueError, OSError):
        print(end="\n" if shown else "", file=out)
        raise
    said = len(chat.turns) > before
    if said and not chat.turns[-1].answer.startswith(shown):
        end += f"\n{chat.turns[-1].answer}"  # letters were spelt otherwise in the end
    print(end, file=out, flush=True)
    pace = chat.pace
    if speed and said and pace is not None:
        rate = f"{pace.rate:.1f} tokens/s, " if pace.tokens > 1 else ""
        print(f"({rate}{pace.tokens} tokens, the first after {pace.first:.2f} s)", file=out)
    return said


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
