"""Zero-shot classification by prompt ensembles, against the same written out for one image."""

import numpy as np
import pytest

from vlm_jax.metrics import class_embeddings, zero_shot_scores


def test_scores_equal_the_definition_for_classes_with_different_numbers_of_prompts():
    rng = np.random.default_rng(0)
    prompts = [rng.normal(size=(count, 6)) for count in (1, 3, 2)]
    images = rng.normal(size=(5, 6))
    unit = lambda vector: vector / np.linalg.norm(vector)
    centres = [unit(np.mean([unit(prompt) for prompt in group], axis=0)) for group in prompts]
    found = zero_shot_scores(images, class_embeddings(prompts), 10.0)
    for image, row in zip(images, found, strict=True):
        odds = np.exp([10 * unit(image) @ centre for centre in centres])
        np.testing.assert_allclose(row, odds / odds.sum(), atol=1e-12)


def test_lengths_and_a_prompt_said_twice_change_nothing():
    rng = np.random.default_rng(1)
    prompts, images = rng.normal(size=(4, 3, 8)), rng.normal(size=(7, 8))
    expected = zero_shot_scores(images, class_embeddings(prompts))
    stretched = class_embeddings([np.concatenate([group, group]) * 5 for group in prompts])
    np.testing.assert_allclose(zero_shot_scores(images * 0.1, stretched), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no classes"),
        ([np.ones((2, 3)), np.ones((0, 3))], "class 1: its prompts"),
        ([np.ones((1, 3)), np.zeros((1, 3))], "class 1: embedding 0 is 0"),
        ([np.array([[1.0, 0], [-1, 0]])], "mean of the prompts"),
    ],
)
def test_bad_prompts(prompts, message):
    with pytest.raises(ValueError, match=message):
        class_embeddings(prompts)


def test_bad_images():
    with pytest.raises(ValueError, match="must be"):
        zero_shot_scores(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="images: embedding 1"):
        zero_shot_scores(np.array([[1.0], [np.inf]]), np.ones((2, 1)))
