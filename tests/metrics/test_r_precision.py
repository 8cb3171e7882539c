"""R-precision is 1 for captions that name their picture, and shared among equals."""

import numpy as np
import pytest

from vlm_jax.metrics.r_precision import r_precision, r_precision_measure

REFERENCES = {1: ["a red dog", "dog"], 2: ["a blue cat"], 3: ["a red cat"], 4: ["a red cat"]}


def test_a_caption_counts_if_its_own_picture_comes_first():
    said = {1: "the dog", 2: "a blue thing", 3: "a blue cat", 4: "red cat"}
    np.testing.assert_allclose(r_precision(said, REFERENCES), [1, 1, 0, 0.5])


def test_nothing_and_unknown_words_count_as_nothing():
    said = dict.fromkeys(REFERENCES, "") | {2: "zebra"}
    np.testing.assert_array_equal(r_precision(said, REFERENCES), 0)


def test_fewer_candidates_are_easier_and_the_draw_is_repeatable():
    ids = range(60)
    references = {i: [f"w{i % 20} v{i % 7}"] for i in ids}
    said = {i: f"w{i % 20}" for i in ids}
    few, many = (r_precision(said, references, candidates=n) for n in (5, 60))
    assert few.mean() > many.mean() == pytest.approx(1 / 3)
    np.testing.assert_array_equal(few, r_precision(said, references, candidates=5))
    assert r_precision_measure(said, references).value(None)[0] == pytest.approx(many.mean())


def test_ids_must_agree():
    with pytest.raises(ValueError, match="without a prediction"):
        r_precision({1: "a"}, REFERENCES)
