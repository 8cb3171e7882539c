"""Plain pixels tell drawings apart, and say so where they cannot help."""

import numpy as np
import pytest

from tests import test_features
from tests.memory.test_classes import classifier
from vlm_jax import features
from vlm_jax.data.images import decode, encode_png
from vlm_jax.data.scenes import Scenes
from vlm_jax.data.schema import DataError
from vlm_jax.data.sources import make_source
from vlm_jax.memory.encoders import Pixels, Published, make_encoder


def test_pixels_are_finite_of_one_width_and_know_a_picture_again():
    source = Scenes("test", length=12, size=48)
    vectors = np.stack([vector for _, vector in make_encoder("pixels").images(source)])
    assert vectors.shape == (12, 511) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    twice = lambda pixels: pixels.repeat(2, axis=0).repeat(2, axis=1)
    enlarged = [{"image": twice(decode(source[i]["image"]))} for i in range(12)]
    larger = np.stack([v for _, v in Pixels().images(enlarged)])
    assert (np.argmax(larger @ vectors.T, axis=1) == np.arange(12)).all()


def test_white_and_black_pictures_have_vectors():
    flat = lambda value: np.full((20, 30, 3), value, np.uint8)
    source = [{"image": flat(value)} for value in (255, 0)]
    assert all(np.isfinite(vector).all() for _, vector in Pixels().images(source))


def test_pixels_know_no_texts():
    with pytest.raises(ValueError, match="cannot be searched for a text"):
        Pixels().texts(["a dog"])


def test_a_published_encoder_gives_what_it_makes_of_files_and_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    folder = classifier(tmp_path / "lite")
    encoder = make_encoder(str(folder))
    assert isinstance(encoder, Published) and encoder.fingerprint == Published(folder).fingerprint
    scenes = make_source(test_features.SCENES)
    pixels = [decode(scenes[i]["image"]) for i in range(3)]
    for i, image in enumerate(pixels):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    (tmp_path / "2.png").write_bytes(b"broken")
    files = Rows(dict(scenes[i], image=str(tmp_path / f"{i}.png")) for i in range(3))
    found, computed = (dict(encoder.images(files)) for _ in range(2))
    assert [*found] == [*computed] == [0, 1] and found[0].shape == (16,)
    drawn = dict(encoder.images(Rows(dict(scenes[i], image=pixels[i]) for i in range(3))))
    for i in range(2):
        np.testing.assert_allclose(found[i], drawn[i], rtol=1e-5)
    kept = features.cached(files, vision=str(folder), image=encoder.image)
    assert len([*(tmp_path / "cache" / "features").iterdir()]) == 1  # the same ones
    assert [i for i, _ in encoder.images(kept)] == [0, 1]
    with pytest.raises(ValueError, match="search for an --image"):
        encoder.texts(["a dog"])
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="is no checkpoint folder"):
        Published(folder)


class Rows(list):
    name = "rows"
