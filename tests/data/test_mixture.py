import logging
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from vlm_jax.data.mixture import Mixture, announce
from vlm_jax.data.order import shuffled
from vlm_jax.data.schema import DataError


class Listed:
    """A source of `length` examples that are nothing but their id."""

    def __init__(self, name, length):
        self.name, self.length = name, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"id": f"{self.name}{index}"}


def mixture(lengths, weights=None):
    return Mixture([Listed(n, k) for n, k in zip("abcdefgh", lengths, strict=False)], weights)


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def by_sorting(mixed, count):
    """The first draws, found the long way: all due times, sorted."""
    whole = sum(mixed._shares)
    due = [
        (Fraction((2 * use + 1) * whole, 2 * share), which, use)
        for which, share in enumerate(mixed._shares)
        for use in range(count if share else 0)
    ]
    return [(which, use) for _, which, use in sorted(due)[:count]]


@pytest.mark.parametrize("seed", range(25))
def test_draws_positions_and_counts_are_those_of_the_sorted_due_times(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 7)
    weights = rng.choice([0, 1, 2, 3, 0.1, 0.25, 5, 7.5, 1e-3], size=size).tolist()
    weights[0] = weights[0] or 1.5
    mixed = mixture(rng.integers(1, 9, size=size).tolist(), weights)
    expected = by_sorting(mixed, 120)
    assert [mixed.drawn(i) for i in range(120)] == expected
    assert [mixed._position(which, use) for which, use in expected] == list(range(120))
    for count in (0, 1, 17, 120):
        drawn = Counter(which for which, _ in expected[:count])
        assert mixed.counts(count) == [drawn[k] for k in range(size)]


@pytest.mark.parametrize("far", [10**9, 10**15 + 7])
def test_far_positions_are_exact(far):
    mixed = mixture((5, 11, 2), (0.2, 0.5, 0.3))
    before = mixed.counts(far)
    assert sum(before) == far
    for offset in range(20):
        which, use = mixed.drawn(far + offset)
        assert use == before[which]
        before[which] += 1


def test_a_mixture_shows_everything_once_by_default_evenly_interleaved():
    mixed = mixture((2, 6))
    assert mixed.name == "a+b"
    assert sorted(ids(mixed)) == sorted(["0/a0", "0/a1", *(f"1/b{i}" for i in range(6))])
    for start in (0, 4):  # each half has one a
        assert sum(name.startswith("0/") for name in ids(mixed)[start : start + 4]) == 1


@pytest.mark.parametrize(
    ("lengths", "weights"), [((10, 30), (1, 1)), ((7, 7), (3, 1)), ((5, 11, 2), (0.2, 0.5, 0.3))]
)
def test_a_weighted_mixture_keeps_its_proportions_everywhere_and_leaves_nothing_out(
    lengths, weights
):
    mixed = mixture(lengths, weights)
    seen = ids(mixed)
    assert len(set(seen)) == sum(lengths)
    share = np.array(weights) / sum(weights)
    for stop in range(1, len(seen) + 1):
        counts = Counter(name[0] for name in seen[:stop])
        drawn = np.array([counts[str(k)] for k in range(len(lengths))])
        assert np.abs(drawn - stop * share).max() <= len(lengths) / 2
    for k, length in enumerate(lengths):  # each source in order, starting over at its end
        positions = [int(name[3:]) for name in seen if name[0] == str(k)]
        assert positions == [i % length for i in range(len(positions))]


def test_equal_weights_repeat_the_smaller_source():
    mixed = mixture((10, 30), (0.1, 0.1))
    assert Counter(name[0] for name in ids(mixed)) == {"0": 30, "1": 30}


@pytest.mark.parametrize("weights", [None, (1, 1), (3, 1), (0.7, 0.3)])
def test_in_training_each_source_has_epochs_of_its_own(weights):
    lengths, mixed = (4, 9), mixture((4, 9), weights)
    order = shuffled(mixed, 5)
    seen = [mixed[order[i]]["id"] for i in range(130)]
    for which, length in enumerate(lengths):
        own = [name for name in seen if name[0] == str(which)]
        epochs = [tuple(own[i : i + length]) for i in range(0, len(own) - length + 1, length)]
        assert all(len(set(epoch)) == length for epoch in epochs)
        assert len(epochs) > 1 and len(set(epochs)) > 1
    assert Counter(name[0] for name in seen) == {
        str(k): count for k, count in enumerate(mixed.counts(130))
    }
    assert [shuffled(mixed, 6)[i] for i in range(30)] != [order[i] for i in range(30)]


def test_equal_sources_are_shuffled_differently():
    mixed = mixture((50, 50))
    order = shuffled(mixed, 0)
    seen = [mixed[order[i]]["id"] for i in range(100)]
    a, b = ([name[3:] for name in seen if name[0] == k] for k in "01")
    assert a != b and sorted(a) == sorted(b)


def test_mixtures_of_mixtures():
    outer = Mixture([mixture((3, 5)), Listed("z", 4)], (1, 3))
    order = shuffled(outer, 1)
    seen = Counter(outer[order[i]]["id"] for i in range(4 * 8 * 3))
    assert len(seen) == 12 and seen["0/0/a0"] == 3 and seen["0/1/b4"] == 3
    assert sum(count for name, count in seen.items() if name[0] == "1") == 72


def test_a_weight_of_nothing_leaves_a_source_out():
    mixed = mixture((3, 100, 4), (1, 0, 1))
    assert len(mixed) == 8 and {name[0] for name in ids(mixed)} == {"0", "2"}
    order = shuffled(mixed, 0)
    assert {mixed[order[i]]["id"][0] for i in range(30)} == {"0", "2"}
    assert mixed.counts(8) == [4, 0, 4]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), "2 sources need as many weights, not 1"),
        ((1, 1, 1), "2 sources need as many weights, not 3"),
        ((1, -1), "the weight of b is -1: use a number of at least 0"),
        ((float("nan"), 1), "the weight of a is nan"),
        ((1, float("inf")), "the weight of b is inf"),
        ((0, 0.0), "all weights of .* are 0"),
        ((1.0, 1e-9), "the weight of b, 1e-09, is below a millionth of the largest"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture((1, 1), weights)


def test_awkward_weights_stay_close_and_quick():
    weights = np.random.default_rng(0).random(40).tolist()
    mixed = mixture([3] * 8, weights[:8])
    counts = np.array(mixed.counts(10**9))
    np.testing.assert_allclose(counts / 1e9, np.array(weights[:8]) / sum(weights[:8]), atol=1e-6)
    assert max(mixed._shares) < 10**13


def test_an_empty_source_cannot_be_mixed():
    for lengths in ((), (1, 0)):
        with pytest.raises(DataError, match="at least one source"):
            mixture(lengths)


def test_what_is_drawn_is_reported(caplog):
    mixed = mixture((10, 30), (1, 1))
    assert mixed.table(40).splitlines() == [
        "a: 10 examples, 50.00% of the stream, 20 drawn (2.00 epochs)",
        "b: 30 examples, 50.00% of the stream, 20 drawn (0.67 epochs)",
    ]
    with caplog.at_level(logging.INFO):
        assert announce(mixed) is mixed
    assert "b: 30 examples, 50.00% of the stream, 30 drawn (1.00 epochs)" in caplog.text


@pytest.mark.parametrize("wrong", [-1, 8])
def test_positions_outside(wrong):
    with pytest.raises(IndexError, match=f"position {wrong} is outside"):
        mixture((2, 6))[wrong]
