from dataclasses import dataclass, replace

import pytest

from vlm_jax.data import generated

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Numbers:
    split: str = "test"
    length: int | None = 4
    seed: int = 3
    most: int = 2
    name = "numbers"

    def __len__(self) -> int:
        return self.length or 10


def test_a_key_tells_seeds_splits_and_positions_apart():
    assert generated.key(Numbers(), SPLITS, 2) == (3, 1, 2)
    assert generated.key(Numbers("train", None), SPLITS, 9) == (3, 0, 9)
    for index in (-1, 4):
        with pytest.raises(IndexError, match=rf"position {index} is outside \[0, 4\) of numbers"):
            generated.key(Numbers(), SPLITS, index)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(split="dev"), "Numbers: split 'dev' must be one of train, test"),
        (dict(length=0), "Numbers: length=0 must be at least 1"),
        (dict(seed=-1), "Numbers: seed=-1 must not be negative"),
        (dict(most=6), r"Numbers: most=6 must be in \[1, 5\]"),
        (dict(most=0), r"Numbers: most=0 must be in \[1, 5\]"),
        (dict(most=4), "Numbers: most=4 must not be 4"),
    ],
)
def test_what_is_out_of_range_is_named(wrong, message):
    def check(source):
        own = {f"most={source.most} must not be 4": source.most != 4}
        generated.check(source, SPLITS, own | generated.within(source, most=(1, 5)))

    check(Numbers(length=None, most=1))
    check(Numbers(most=5))
    with pytest.raises(ValueError, match=message):
        check(replace(Numbers(), **wrong))
