"""distinct-n, vocabulary and novelty, counted by hand; the jackknife by leaving out for real."""

import numpy as np
import pytest

from vlm_jax.metrics import diversity

CAPTIONS = {1: "a dog a dog", 2: "a cat", 3: "a dog runs"}


def test_counts_of_a_small_set():
    found = diversity(CAPTIONS, training=["a  cat", "two cats"])
    assert {name: score.value for name, score in found.items()} == pytest.approx(
        {
            "distinct-1": 4 / 9,
            "distinct-2": 4 / 6,
            "vocabulary": 4,
            "words_per_caption": 3,
            "novel": 2 / 3,
        }
    )
    assert all(score.n == 3 for score in found.values())
    assert "novel" not in diversity(CAPTIONS)


def test_interval_is_the_jackknife():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    captions = {i: " ".join(rng.choice(words, size=rng.integers(2, 8))) for i in range(12)}
    found = diversity(captions)
    for name in ("distinct-1", "distinct-2", "vocabulary"):
        left = [
            diversity({key: text for key, text in captions.items() if key != out})[name].value
            for out in captions
        ]
        error = np.sqrt(11 / 12 * ((np.array(left) - np.mean(left)) ** 2).sum())
        value, low, high, _ = found[name]
        assert low == pytest.approx(value - 1.959964 * error, abs=1e-6)
        assert high == pytest.approx(
            min(value + 1.959964 * error, np.inf if name == "vocabulary" else 1), abs=1e-6
        )


def test_captions_without_words():
    found = diversity({1: "", 2: ""})
    assert found["distinct-1"] == (0.0, 0.0, 0.0, 2)
    with pytest.raises(ValueError, match="no captions"):
        diversity({})
