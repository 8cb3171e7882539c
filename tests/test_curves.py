import itertools

import numpy as np
import pytest

from vlm_jax.curves import POINTS, SMOOTHED, Series, chart


def points(text):
    return np.array([[float(number) for number in point.split(",")] for point in text.split()])


def test_values_lie_where_the_ticks_say():
    drawn = chart("loss", "loss", [Series("loss", [10, 20, 40], [1.0, 3.0, 2.0])])
    (line,) = drawn.lines
    x_at = {tick.label: tick.at for tick in drawn.x_ticks}
    y_at = {tick.label: tick.at for tick in drawn.y_ticks}
    expected = [[x_at["10"], y_at["1"]], [x_at["20"], y_at["3"]], [x_at["40"], y_at["2"]]]
    np.testing.assert_allclose(points(line.points), expected, atol=0.051)
    np.testing.assert_allclose(line.dots, expected, atol=0.051)
    assert (drawn.label, line.last, line.faint) == ("loss", "2", "")


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    drawn = chart("loss", "loss", [Series("loss", [1, 2, 3, 4], [0.01, 0.1, 1.0, 10.0])])
    assert drawn.label == "loss, log scale"
    assert np.ptp(np.diff(points(drawn.lines[0].points)[:, 1])) <= 0.2
    assert [tick.label for tick in drawn.y_ticks] == ["0.01", "0.1", "1", "10"]


def test_an_axis_from_zero_is_linear_and_has_a_zero():
    drawn = chart("f1", "f1", [Series("f1", [1, 2], [0.001, 0.9])], from_zero=True)
    assert drawn.label == "f1" and drawn.y_ticks[0] == (drawn.bottom, "0")


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.0, 0.0], [-3.0, 7e6], [1e-7, 3e-7], [1.0, 30.0]])
def test_lines_and_ticks_stay_inside_the_plot(values):
    drawn = chart("a", "a", [Series("a", [5, 70_000], values)])
    x, y = points(drawn.lines[0].points).T
    assert drawn.left <= x.min() and x.max() <= drawn.right + 0.05
    assert drawn.top - 0.05 <= y.min() and y.max() <= drawn.bottom + 0.05
    heights = [tick.at for tick in drawn.y_ticks]
    assert 2 <= len(heights) <= 12
    assert all(later < earlier for earlier, later in itertools.pairwise(heights))
    assert len({tick.label for tick in drawn.y_ticks}) == len(heights)


def test_long_series_are_thinned_and_smoothed_around_the_same_mean():
    noise = np.random.default_rng(0).normal(5.0, 1.0, 10_000)
    series = Series("noise", range(1, 10_001), noise.tolist())
    (line,) = chart("a", "a", [series]).lines
    smooth, faint = points(line.points), points(line.faint)
    assert POINTS / 2 < len(smooth) == len(faint) <= POINTS and not line.dots
    assert smooth[:, 1].std() < 0.5 * faint[:, 1].std()
    assert abs(smooth[:, 1].mean() - faint[:, 1].mean()) < 0.1 * faint[:, 1].std()
    (plain,) = chart("a", "a", [series], smooth=False).lines
    assert (plain.points, plain.faint) == (line.faint, "")


def test_a_straight_line_stays_straight_when_thinned():
    (line,) = chart(
        "a", "a", [Series("a", range(1, 400), range(1, 400))], smooth=False, from_zero=True
    ).lines
    x, y = points(line.points).T
    assert abs(np.corrcoef(x, y)[0, 1] + 1) < 1e-6


def test_baselines_are_neither_smoothed_nor_dotted():
    steps = range(SMOOTHED)
    score, level = (Series("score", steps, steps), Series("chance", steps, [1] * SMOOTHED, True))
    drawn = chart("a", "a", [score, level])
    assert drawn.lines[0].faint and not drawn.lines[1].faint and not drawn.lines[1].dots


def test_values_that_are_no_numbers_are_left_out():
    drawn = chart("a", "a", [Series("a", [1, 2, 3], [1.0, None, 2.0]), Series("b", [1], [None])])
    assert len(points(drawn.lines[0].points)) == 2 and len(drawn.lines) == 1


def test_there_is_no_chart_of_less_than_two_points():
    level = Series("chance", [1, 2], [0.1, 0.1], baseline=True)
    assert chart("a", "a", []) is None
    assert chart("a", "a", [Series("a", [1], [1.0]), level]) is None
