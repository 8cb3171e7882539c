"""Fonts are found in their packages, and whatever is missing is named with its remedy."""

import pytest

from vlm_jax.data import fonts
from vlm_jax.data.schema import DataError


@pytest.mark.parametrize("name", fonts.FONTS)
def test_every_font_is_there_and_has_the_letters(name):
    face = fonts.font(name, 20)
    shapes = {letter: bytes(face.getmask(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert len(set(shapes.values())) == 26  # a missing letter would be a box, like another one


def test_no_two_names_are_the_same_file():
    assert len({fonts.font_file(name) for name in fonts.FONTS}) == len(fonts.FONTS)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "own.ttf"
    path.write_bytes(fonts.font_file("dejavu sans").read_bytes())
    assert fonts.font(str(path), 20).getlength("word") == fonts.font("dejavu sans", 20).getlength(
        "word"
    )


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'dejavu sans'"):
        fonts.font_file("dejavu san")
    with pytest.raises(DataError, match=r"nothing\.ttf.*check the path"):
        fonts.font_file(str(tmp_path / "nothing.ttf"))
    (tmp_path / "broken.ttf").write_text("no font")
    with pytest.raises(DataError, match="broken.ttf is not a font"):
        fonts.font(str(tmp_path / "broken.ttf"), 20)
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install font-caladea"):
        fonts.font_file("caladea")
