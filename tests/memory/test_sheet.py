"""A contact sheet has a tile for the query and one for each hit."""

import numpy as np
from PIL import Image

from vlm_jax.memory import sheet


def test_pictures_lie_in_order_and_missing_ones_are_pale(tmp_path):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [sheet.Tile(np.full((9, 9, 3), colour, np.uint8), "x") for colour in colours]
    page = sheet.contact_sheet(tiles[0], [*tiles[1:], sheet.Tile(b"no picture", "a " * 99)] * 2)
    step = (sheet.TILE + 12, sheet.TILE + sheet.LINES * 15 + 12)
    centre = lambda column, row: page.getpixel((column * step[0] + 90, row * step[1] + 90))
    assert [centre(0, 0), centre(0, 1), centre(1, 1)] == colours
    assert centre(2, 1) == (225, 225, 225)
    assert centre(0, 2) == (225, 225, 225) and page.size[1] > 3 * step[1]
    words = sheet.contact_sheet(tiles[0], [sheet.Tile(None, "1. a cat")])
    inside = np.asarray(words)[step[1] + 12 : step[1] + 12 + sheet.TILE, 12 : 12 + sheet.TILE]
    assert inside.min() < 100  # where there is no picture, the words stand in its place
    path = sheet.save(page, tmp_path / "sheet.png")
    assert Image.open(path).size == page.size
