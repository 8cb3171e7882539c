"""Configuration dictionaries become keyword arguments, and a misspelt key becomes a sentence that
names the right one.

A config's sub-dictionaries hold exactly the keyword arguments of whatever reads them; defaults live
in the callee's signature and nowhere else. `where` is the place in the config, such as
"config.model.vision", and starts every message.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

Config = Any
"""A mapping from keys to values, or a ConfigDict, which is none by type; None where no keys are
meant."""


Number = float | int
"""A number in a config, where 1 is as good as 1.0."""

Pair = int | Sequence[int]
"""Two numbers in a config, such as height and width, or one for both."""


def pair(given: Pair) -> tuple[int, int]:
    """Both of them."""
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))


def suggestion(word: str, known: Iterable[str]) -> str:
    """The question "did you mean ...? " about the nearest known name; empty if none is near."""
    near = get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


def keywords(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function, dataclass or Flax module that may be given by keyword, in the
    order of its signature.
    """
    parameters = inspect.signature(function).parameters
    hidden = (
        {"parent", "name"} if "parent" in parameters else set()
    )  # Flax adds these two to every module
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in parameters.items() if p.kind in kinds and name not in hidden}


def check_keys(config: Iterable[str], valid: Iterable[str], where: str) -> None:
    """TypeError for the first key of `config` that is not valid, naming the nearest valid key and
    listing them all.
    """
    valid = list(valid)
    for key in config:
        if key not in valid:
            listing = ", ".join(valid) or "none"
            raise TypeError(
                f"unknown key {key!r} in {where}; {suggestion(key, valid)}valid: {listing}"
            )


def _frozen(value: Any) -> Any:
    """Lists, also those in lists and in dictionaries, as tuples."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def call(function: Callable, config: Config, where: str, **extra: Any) -> Any:
    """`function(**config, **extra)`, with errors that speak of the config.

    config: keyword arguments chosen by the user; a mapping, a ConfigDict or None for no keys.
    extra: keyword arguments that the code supplies and the config may not. TypeError for an unknown
    key (with the nearest valid one), for a key that is supplied by the code, and for a required key
    that is missing.
    """
    # JSON has lists where signatures say tuples, and Flax fields must be hashable.
    given = {key: _frozen(value) for key, value in dict(config or {}).items()}
    taken = [key for key in given if key in extra]
    if taken:
        raise TypeError(f"{where}.{taken[0]} is set by the code: remove it from the config")
    parameters = keywords(function)
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        check_keys(given, [name for name in parameters if name not in extra], where)
    required = [name for name, p in parameters.items() if p.default is p.empty]
    missing = [name for name in required if name not in given and name not in extra]
    if missing:
        raise TypeError(f"{where} lacks the required key {missing[0]!r}")
    return function(**given, **extra)


def lookup(table: Mapping[str, Any], name: str, where: str) -> Any:
    """`table[name]`; ValueError naming the nearest entry and listing them all if there is no such
    entry.
    """
    if name not in table:
        listing = ", ".join(sorted(table))
        raise ValueError(f"unknown {where} {name!r}; {suggestion(name, table)}valid: {listing}")
    return table[name]


def build(table: Mapping[str, Callable], config: Config, where: str, **extra: Any) -> Any:
    """Calls the entry of `table` that `config["name"]` names with the other keys of `config`;
    errors as in `call`.
    """
    given = dict(config or {})
    if "name" not in given:
        raise TypeError(
            f"{where} lacks the required key 'name'; valid names: {', '.join(sorted(table))}"
        )
    name = given.pop("name")
    return call(lookup(table, name, f"{where}.name"), given, where, **extra)
