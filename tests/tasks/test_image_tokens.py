"""The task of drawing images again: its loss, and what its evaluation reports."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlm_jax.data.scenes import Scenes
from vlm_jax.tasks.image_tokens import ImageTokens, psnr
from vlm_jax.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer({"name": "byte"}, list)


class Source(list):
    name = "images"


class Run:
    """Stands for a tokenizer that draws every image a little too bright."""

    experiment = SimpleNamespace(model=SimpleNamespace(codes=8))

    def rows(self, ask, source, inputs):
        assert ask == "reconstruct_image"
        for i, image in enumerate(source):
            assert inputs(image) == {}
            yield i, {"image": image, "drawn": image + 2 / 127.5, "ids": np.array([0, 1, 2, i])}


def test_evaluation_reports_psnr_beside_the_mean_colour_and_the_codes_in_use():
    levels = np.random.default_rng(0).integers(0, 250, (3, 4, 4, 3))
    found = dict(ImageTokens(TOKENIZER).evaluate(Run(), Source(levels / 127.5 - 1.0), drawn=0))
    assert found["psnr"].value == pytest.approx(20 * np.log10(255 / 2), abs=1e-9)
    assert found["psnr/mean_colour"] < 15
    assert found["codebook_used"] == 3 / 8 and found["n"] == 3


def test_scenes_that_come_back_blank_no_longer_show_what_they_did():
    scenes = Scenes("test", 64, 6, questions=0)

    class Blank(Run):
        def rows(self, ask, source, inputs):
            for i, example in enumerate(source):
                image = example["image"]() / 127.5 - 1.0
                yield i, {"image": image, "drawn": image * (i > 1), "ids": np.array([i])}

    found = dict(ImageTokens(TOKENIZER).evaluate(Blank(), scenes, drawn=0))
    names = ("drawn_count", "drawn_colours", "drawn_shapes", "drawn_right")
    assert [found[name].value for name in names] == [4 / 6] * 4


def test_the_loss_weighs_its_parts():
    image = np.zeros((2, 2, 2, 3), np.float32)
    outputs = {"image": image, "drawn": image + 0.5, "codebook_loss": np.array([0.0, 2.0])}
    loss = ImageTokens(TOKENIZER, absolute=1.0, squared=2.0, codebook=0.1).loss(outputs, {})
    np.testing.assert_allclose(loss, [1.0, 1.2], rtol=1e-6)


def test_equal_images_have_a_finite_psnr():
    assert psnr(np.ones((2, 2, 3)), np.ones((2, 2, 3))) == 100.0
