"""A folder's chat template as fields of `data.turns.Format`.

The template is a Jinja program of its own; two short conversations are written with it, and what
stands around what is said in them is the format.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlm_jax.tokenizers import Tokenizer
from vlm_jax.weights.folder import read_json

FIRST, ANSWER, SECOND = "qwxyzfirst", "qwxyzanswer", "qwxyzsecond"
"""What is said, in words that stand in no template."""


def chat_format(folder: str | Path, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Fields of `data.turns.Format` for turns of text alone; None without a template, or for one
    that cannot be told in these terms: what surrounds a turn must be the same for every turn, and
    an answer must end with one of the tokenizer's ends. Blanks may stand around an answer.
    """
    template = _template(folder)
    if template is None:
        return None
    said = [{"role": "user", "content": FIRST}]
    later = [{"role": "assistant", "content": ANSWER}, {"role": "user", "content": SECOND}]
    known = _named(folder)
    try:
        one, two = (_written(template, turns, known) for turns in (said, said + later))
    except TemplateError:
        return None
    begins, found, after = one.partition(FIRST)
    opens = two.removeprefix(one).partition(ANSWER)[0]
    middle = two.removeprefix(one + opens + ANSWER).removesuffix(SECOND + after)
    if not found or two != one + opens + ANSWER + middle + SECOND + after or opens.strip():
        return None
    blank = middle[: len(middle) - len(middle.lstrip())]
    names = (tokenizer.token(index) for index in tokenizer.ends)
    ends = (blank + name for name in names if name)
    end = next((text for text in ends if middle.startswith(text)), None)
    if end is None or "{" in one + middle:
        return None
    turn = {"turn": "{picture}{prompt}" + after, "ends": end}
    turn |= {"opens": opens} if opens or blank else {}
    return turn | {"begins": begins, "between": middle.removeprefix(end), "picture": {}}


def _template(folder: str | Path) -> str | None:
    """The folder's template: a file of its own, or in tokenizer_config.json."""
    path = Path(folder) / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_json(folder, "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _named(folder: str | Path) -> dict[str, str]:
    """The special tokens that templates speak of."""
    config = read_json(folder, "tokenizer_config.json")
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        found |= {name: value} if value else {}
    return found


def _written(template: str, turns: Sequence[Mapping[str, str]], known: Mapping[str, str]) -> str:
    """A conversation up to where an answer begins. TemplateError for a program that fails."""

    def refuse(message: str) -> str:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda x, **options: json.dumps(x, ensure_ascii=False)
    environment.globals |= {"raise_exception": refuse, "strftime_now": datetime.now().strftime}
    program = environment.from_string(template)
    return program.render(messages=turns, add_generation_prompt=True, **known)
