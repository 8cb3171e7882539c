"""A contact sheet of a search: what was asked, and what was found, as one picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_jax.data import images
from vlm_jax.data.schema import DataError

TILE, LINES, COLUMNS = 160, 4, 5
"""Side of a picture and lines of text below it; tiles in a row."""

_MARGIN, _LINE = 12, 15
_INK, _PAPER, _PALE = (30, 30, 30), (255, 255, 255), (225, 225, 225)


class Tile(NamedTuple):
    """A picture, or None where there is none to show, and the words below it."""

    image: Any
    text: str


def contact_sheet(query: Tile, hits: Sequence[Tile]) -> Image.Image:
    """The query in a row of its own, then the hits in rows of COLUMNS. Pictures that cannot be read
    are grey; where there is none, the words stand on the grey.
    """
    font = ImageFont.load_default(size=12)
    step = (TILE + _MARGIN, TILE + LINES * _LINE + _MARGIN)
    rows = 1 + -(-len(hits) // COLUMNS)
    size = (COLUMNS * step[0] + _MARGIN, rows * step[1] + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    places = [(0, 0), *((i % COLUMNS, 1 + i // COLUMNS) for i in range(len(hits)))]
    for tile, (column, row) in zip([query, *hits], places, strict=True):
        left, top = column * step[0] + _MARGIN, row * step[1] + _MARGIN
        sheet.paste(_thumbnail(tile.image), (left, top))
        height = TILE if tile.image is not None else (TILE - LINES * _LINE) // 2
        for number, line in enumerate(textwrap.wrap(tile.text, 25)[:LINES]):
            draw.text((left + 4, top + height + number * _LINE), line, fill=_INK, font=font)
    return sheet


def save(sheet: Image.Image, path: Path) -> Path:
    """Writes the sheet as PNG, whole or not at all; returns the path."""
    from vlm_jax.workdir import atomic_write_bytes

    atomic_write_bytes(path, images.encode_png(np.asarray(sheet)))
    return path


def _thumbnail(image: Any) -> Image.Image:
    """The picture in a TILE x TILE square; grey if there is none or it cannot be read."""
    tile = Image.new("RGB", (TILE, TILE), _PALE)
    if image is None:
        return tile
    try:
        picture = Image.fromarray(images.decode(image))
    except DataError:
        return tile
    scale = TILE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    tile.paste(picture, ((TILE - width) // 2, (TILE - height) // 2))
    return tile
