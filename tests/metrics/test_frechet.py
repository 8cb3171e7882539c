"""The Frechet distance against closed forms and the eigenvalues of the product of covariances."""

import numpy as np
import pytest

from vlm_jax.metrics.frechet import frechet_distance, frechet_score

RNG = np.random.default_rng(0)


def with_moments(n, mean, deviation):
    """A sample of which mean and deviations are exactly those; its channels do not correlate."""
    x = RNG.normal(size=(n, len(mean)))
    q, _ = np.linalg.qr(x - x.mean(axis=0))
    q = q - q.mean(axis=0)
    return np.asarray(mean) + q / q.std(axis=0, ddof=1) * np.asarray(deviation)


def test_diagonal_normals_have_a_closed_form():
    a, b = with_moments(50, [0, 1, 2], [1, 2, 3]), with_moments(70, [1, 1, 0], [2, 2, 0.5])
    assert frechet_distance(a, b) == pytest.approx((1 + 0 + 4) + (1 + 0 + 2.5**2), rel=1e-6)
    assert frechet_distance(a, a + 2.0) == pytest.approx(12.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [200, 12])
def test_the_eigenvalues_of_the_product_of_covariances_say_the_same(n):
    mix = RNG.normal(size=(16, 16))
    a, b = RNG.normal(size=(n, 16)) @ mix, RNG.normal(size=(150, 16)) + 0.3
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    squares = np.linalg.eigvals(covariances[0] @ covariances[1])
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected += np.trace(covariances[0] + covariances[1])
    expected -= 2 * np.sum(np.sqrt(np.maximum(squares.real, 0)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_the_interval_holds_what_a_large_sample_says():
    draw = lambda n, shift: np.random.default_rng(n).normal(size=(n, 4)) + shift
    reference = draw(20_000, 0.0)
    truth = 4 * 0.5**2
    found = frechet_score(draw(300, 0.5), reference)
    assert found.low < truth < found.high and found.n == 300
    assert found.high - found.low < 0.8
    assert found == frechet_score(draw(300, 0.5), reference)
    narrow = frechet_score(draw(300, 0.5), reference, level=0.5)
    assert narrow.high - narrow.low < found.high - found.low


@pytest.mark.parametrize(
    ("n", "mean", "deviation", "groups"),
    [(80, (0.4, 0.0, 0.2), (1.0, 1.4, 0.7), 80), (240, (0.2, 0.3), (1.0, 1.0), 40)],
)
def test_the_interval_holds_the_known_distance_of_normals_in_95_of_100_trials(
    n, mean, deviation, groups
):
    mean, deviation = np.array(mean), np.array(deviation)
    truth = np.sum(mean**2) + np.sum((deviation - 1) ** 2)
    reference = with_moments(100, np.zeros(len(mean)), np.ones(len(mean)))
    rng, trials = np.random.default_rng(5), 150
    found = [
        frechet_score(mean + deviation * rng.normal(size=(n, len(mean))), reference, groups=groups)
        for _ in range(trials)
    ]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.9 <= held <= 0.99
    assert all(one.low <= one.value <= one.high for one in found)
    above = np.mean([truth > one.high for one in found])
    assert above < 0.09  # what is missed is not all on one side


@pytest.mark.parametrize("width", [16, 48, 80])
def test_the_value_and_the_truth_lie_inside_even_where_most_of_the_value_is_bias(width):
    reference = with_moments(200, np.zeros(width), np.ones(width))
    for seed, shift in enumerate((0.0, 0.2)):
        sample = np.random.default_rng(seed).normal(size=(64, width)) + shift
        found = frechet_score(sample, reference)
        assert found.low <= width * shift**2 <= found.value <= found.high


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        frechet_score(np.zeros((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="2 vectors in 100 groups: at least 3"):
        frechet_score(np.zeros((2, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="5 vectors in 1 groups"):
        frechet_score(np.zeros((5, 3)), np.zeros((5, 3)), groups=1)
