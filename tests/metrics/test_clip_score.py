"""CLIPScore and RefCLIPScore against the formulas of the paper, pair by pair."""

import numpy as np
import pytest

from vlm_jax.metrics import clip_scores, reference_clip_scores

RNG = np.random.default_rng(0)
IMAGES, CAPTIONS = RNG.normal(size=(9, 5)), RNG.normal(size=(9, 5))
REFERENCES = [RNG.normal(size=(1 + i % 3, 5)) for i in range(9)]


def _cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_equal_to_the_formulas():
    plain, referenced = [], []
    for image, caption, group in zip(IMAGES, CAPTIONS, REFERENCES, strict=True):
        score = 2.5 * max(_cosine(image, caption), 0)
        best = max(max(_cosine(reference, caption) for reference in group), 0)
        plain.append(score)
        referenced.append(2 / (1 / score + 1 / best) if score and best else 0.0)
    assert any(plain) and not all(plain)
    np.testing.assert_allclose(clip_scores(IMAGES, CAPTIONS), plain, atol=1e-12)
    found = reference_clip_scores(IMAGES, CAPTIONS, REFERENCES)
    np.testing.assert_allclose(found, referenced, atol=1e-12)


def test_equal_directions_score_the_weight():
    np.testing.assert_allclose(clip_scores(IMAGES, 3 * IMAGES), 2.5)
    np.testing.assert_allclose(
        reference_clip_scores(IMAGES, IMAGES, IMAGES[:, None], weight=1.0), 1.0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, CAPTIONS[1:], REFERENCES), "two non-empty"),
        ((IMAGES, CAPTIONS, REFERENCES[1:]), "9 captions but 8"),
        ((IMAGES, CAPTIONS, [*REFERENCES[:8], np.ones((0, 5))]), "caption 8 has no reference"),
        ((IMAGES * 0, CAPTIONS, REFERENCES), "images: embedding 0 is 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        reference_clip_scores(*arguments)
