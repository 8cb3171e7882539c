import numpy as np
import pytest
from PIL import Image

from vlm_jax.data import images
from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.stamps import Stamps, names

TEXT = "A cat.\nde.utf8=Eine Katze.\nzh_CN.utf8=猫。\nfr.utf8=\nno line of ours\n"
SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="4" height="2"/></svg>'
)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "usr" / "stamps" / "animals"
    place.mkdir(parents=True)
    for name in ("cat", "square", "lonely"):
        (place / f"{name}.txt").write_text(TEXT if name == "cat" else "A square.", "utf-8")
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(place / "cat.png")
    (place / "square.svg").write_text(SQUARE)
    return str(tmp_path)


def test_pictures_with_their_captions(folder):
    source = Stamps(folder=folder)
    assert [source[i]["captions"] for i in range(len(source))] == [["A cat."], ["A square."]]
    assert source[0]["id"] == "usr/stamps/animals/cat"
    assert (images.decode(source[0]["image"]) == 255).all()  # transparent ground is white
    validate(source[1], "stamps")


def test_drawings_without_pixels(folder):
    pixels = images.decode(Stamps(folder=folder, size=8)[1]["image"])
    assert pixels.shape == (8, 8, 3)
    assert np.all(pixels[:3] == 0) and np.all(pixels[5:] == 255)


def test_other_languages_hold_what_they_name(folder):
    source = Stamps("zh_cn", folder)
    assert len(source) == 1 and source[0]["captions"] == ["猫。"]
    assert names(TEXT) == {"en": "A cat.", "de": "Eine Katze.", "zh_cn": "猫。"} and not names("")


def test_no_stamps(folder, tmp_path):
    with pytest.raises(DataError, match="'fr'.*apt-get download"):
        Stamps("fr", folder)
    with pytest.raises(IndexError, match=r"\[0, 2\)"):
        Stamps(folder=folder)[2]
