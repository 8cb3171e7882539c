"""The bootstrap interval against the normal approximation, and its edge cases."""

import numpy as np
import pytest

from vlm_jax.metrics import bootstrap_interval, caption_measures, mean_of, score
from vlm_jax.metrics.bleu import bleu
from vlm_jax.metrics.bootstrap import compare_measures, resamples_of


def test_interval_of_a_mean_is_close_to_the_normal_one():
    scores = np.random.default_rng(0).random(2000)
    low, high = bootstrap_interval(scores, resamples=2000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_the_seed_decides():
    scores = np.random.default_rng(1).random(50)
    assert bootstrap_interval(scores, seed=3) == bootstrap_interval(scores, seed=3)
    assert bootstrap_interval(scores, seed=3) != bootstrap_interval(scores, seed=4)


def test_counts_weigh_the_examples():
    assert bootstrap_interval(np.array([2.0, 6.0, 4.0]), np.array([1, 3, 2])) == (2.0, 2.0)
    low, high = bootstrap_interval(np.array([0.0, 1.0]), np.array([0, 1]))
    assert low == high == 1.0


def _captions():
    rng = np.random.default_rng(5)
    words = "a red dog runs near the old tree".split()
    text = lambda: " ".join(rng.choice(words, size=rng.integers(4, 9)))
    references = {i: [text(), text()] for i in range(15)}
    return {i: text() for i in references}, references


def test_a_resample_of_bleu_equals_bleu_of_the_drawn_captions():
    predictions, references = _captions()
    measure = caption_measures(predictions, references)[0]
    for weights in resamples_of(15, 5):
        drawn = np.repeat(np.arange(15), weights)
        expected = bleu(
            {n: predictions[i] for n, i in enumerate(drawn)},
            {n: references[i] for n, i in enumerate(drawn)},
        )
        np.testing.assert_allclose(measure.value(weights), expected, atol=1e-12)


def test_every_score_lies_in_its_interval_and_knows_n():
    found = score(caption_measures(*_captions()), resamples=200)
    assert list(found) == [*(f"BLEU-{n}" for n in (1, 2, 3, 4)), "ROUGE-L", "CIDEr-D"]
    for value, low, high, n in found.values():
        assert low < value < high and n == 15


def test_means_do_not_depend_on_the_order_of_summation():
    scores = np.random.default_rng(0).random(999) * 10.0 ** np.arange(-4, 5).repeat(111)
    assert mean_of("x", scores).value(None) == mean_of("x", scores[::-1]).value(None)


def test_equal_systems_do_not_differ_and_a_better_one_does():
    scores = np.random.default_rng(2).random(300)
    same = compare_measures([mean_of("x", scores)], [mean_of("x", scores)])["x"]
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    better = compare_measures([mean_of("x", scores)], [mean_of("x", scores + 0.01)])["x"]
    assert better.difference == pytest.approx(0.01)
    assert better.low == pytest.approx(0.01) and better.high == pytest.approx(0.01)
    assert better.p == pytest.approx(2 / 1001)


def test_pairing_tells_apart_what_two_intervals_would_not():
    rng = np.random.default_rng(3)
    a = rng.random(200)
    b = a + rng.normal(0.02, 0.05, size=200)
    apart = score([mean_of("a", a), mean_of("b", b)])
    assert apart["a"].high > apart["b"].low
    assert compare_measures([mean_of("x", a)], [mean_of("x", b)])["x"].low > 0


def test_a_resample_without_any_count_is_left_out():
    low, high = bootstrap_interval(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]), resamples=50)
    assert (low, high) == (1.0, 1.0)


def test_measures_must_fit_together():
    with pytest.raises(ValueError, match=r"n = \[2, 3\]"):
        score([mean_of("x", np.ones(2)), mean_of("y", np.ones(3))])
    with pytest.raises(ValueError, match="measured differently"):
        compare_measures([mean_of("x", np.ones(2))], [mean_of("y", np.ones(2))])


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [([], None, "non-empty"), ([1.0], [1, 2], "two"), ([1.0], [0], "nothing to average")],
)
def test_bad_input(sums, counts, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.array(sums), None if counts is None else np.array(counts))
