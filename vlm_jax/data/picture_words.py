"""What stands for a picture in the text that a model reads, where this depends on the picture.

A task's template says where, by "{picture}". What stands there is itself a piece of a template, see
`data.text.fill`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vlm_jax import kwargs
from vlm_jax.data.schema import DataError, Example
from vlm_jax.data.text import fill
from vlm_jax.tokenizers import Tokenizer

Grid = tuple[int, int]
"""Rows and columns of a picture's tokens, or of its tiles; (0, 0) for a picture in one tile."""

PLACE = "{picture}"


def run(grid: Grid | None, token: str, *, count: int | None = None) -> str:
    """`count` image tokens (None: one for each place of the grid)."""
    if count is None:
        rows, columns = _known(grid)
        count = rows * columns
    return f"{{{token}*{count}}}"


def tiles(grid: Grid | None, token: str, *, count: int, around: str, whole: str) -> str:
    """Rows of tiles, then the whole picture, `count` image tokens each (Idefics3, arXiv:2408.12637,
    section 3.1).

    around: the token before every tile, and after the last. whole: the name of the whole picture,
    where the others are called <row_1_col_1> and so on.
    """
    rows, columns = _known(grid)
    images = f"{{{token}*{count}}}"
    tile = lambda row, column: f"{{{around}}}<row_{row + 1}_col_{column + 1}>{images}"
    lines = ["".join(tile(row, column) for column in range(columns)) + "\n" for row in range(rows)]
    between = "\n" if rows else ""
    return "".join(lines) + f"{between}{{{around}}}{whole}{images}{{{around}}}"


def crops(grid: Grid | None, token: str, *, count: int, around: str) -> str:
    """The whole picture and then its parts, if it has any, `count` image tokens each, in the words
    that Gemma 3 was trained with (arXiv:2503.19786, section 2.1).

    around: what stands around each of them, {picture}.
    """
    rows, columns = grid or (0, 0)
    shown = around.replace(PLACE, f"{{{token}*{count}}}")
    if not rows * columns:
        return shown
    parts = " ".join([shown] * (rows * columns))
    told = "and here are some crops to help you see better"
    return f"Here is the original image {shown} {told} {parts}"


KINDS: Mapping[str, Callable[..., str]] = {"run": run, "tiles": tiles, "crops": crops}
"""By the `name` in a task's field `picture`."""


def with_picture(
    template: str, picture: Mapping[str, Any] | None, tokenizer: Tokenizer, example: Example
) -> tuple[str, int]:
    """The template with what stands for an example's picture in its place, and room for that, in
    tokens.

    picture: {"name": one of KINDS, "token": the image token's name or id, ...}; an id as text, such
    as "50265", keeps the tokens apart from the text, see `data.text.fill`. With None the template
    stays as it is. The example of a picture that was cut into tiles or patches has a "grid". Room
    is rounded up, so that pictures of many sizes make few lengths. ValueError for a token that the
    tokenizer lacks; DataError for an example without a grid that needs one.
    """
    if picture is None:
        return template, 0
    given = dict(picture)
    token = given.pop("token")
    name = tokenizer.token(token) if isinstance(token, int) else token
    if name is None:
        raise ValueError(f"the tokenizer has no token {token}, which stands for pictures")
    kind = kwargs.lookup(KINDS, given.pop("name"), "picture.name")
    words = kind(example.get("grid"), name, **given)
    return template.replace(PLACE, words), rounded(len(fill(tokenizer, words, "")) + SLACK)


SLACK = 8
"""What a template may have more tokens with a picture than both by themselves: line breaks that
were one token are two with something between them.
"""


def rounded(count: int) -> int:
    """The next of 4, 8, ... 28, 32, 40, 48, 56, 64, 80, ...: four to each doubling."""
    step = max(4, 2 ** ((max(count, 1) - 1).bit_length() - 3))
    return -(-count // step) * step


def _known(grid: Grid | None) -> Grid:
    if grid is None:
        raise DataError("this picture was not cut as the template expects: set data.image.fit")
    return int(grid[0]), int(grid[1])
