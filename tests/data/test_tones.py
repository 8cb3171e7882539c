import numpy as np
import pytest

from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.tones import DURATIONS, KINDS, LENGTHS, PITCHES, Clip, Group, Tones, captions

RATE = 16_000
CLIP = (Group(2, "short", "high", "tone"), Group(1, "long", "low", "buzz"))


def test_captions_say_what_sounds_in_order():
    texts = captions(np.random.default_rng(0), CLIP)
    assert sorted(texts) == [
        "two short high tones followed by a long low buzz",
        "two short high tones then a long low buzz",
    ]
    three = captions(np.random.default_rng(0), (Group(3, "long", "low", "buzz"),))
    assert three == ["three long low buzzes"]


def test_notes_can_be_counted_and_heard_in_order():
    found = Clip(CLIP, (1,))(RATE, 9.0)
    steps = np.abs(found).reshape(-1)[: len(found) // 160 * 160].reshape(-1, 160).max(1) > 0.08
    starts = np.flatnonzero(np.diff(np.concatenate([[0], steps.astype(int)])) == 1)
    assert len(starts) == 3
    first, last = found[: round(0.06 * RATE)], found[starts[2] * 160 :]
    loudest = lambda part: np.abs(np.fft.rfft(part)).argmax() * RATE / len(part)
    assert loudest(first) > 2 * loudest(last)


def test_examples_are_functions_of_seed_split_and_position():
    source = Tones("test", length=50)
    assert source.name == "tones/test" and len(source) == 50 and len(Tones()) == LENGTHS["train"]
    assert [one["id"] for one in source] == [f"test-{i}" for i in range(50)]
    one, again = source[7], Tones("test")[7]
    assert one["captions"] == again["captions"] != Tones("test", seed=1)[7]["captions"]
    np.testing.assert_array_equal(one["audio"](RATE, 9.0), again["audio"](RATE, 9.0))
    assert validate(one, "here")["id"] == "test-7"
    with pytest.raises(DataError, match="without a picture"):
        one["image"]()
    with pytest.raises(IndexError, match="position 50 is outside"):
        source[50]


def test_every_word_is_used_and_clips_fit_the_config():
    source = Tones(length=300)
    words = {word.rstrip("s") for one in source for word in one["captions"][0].split()}
    assert {*DURATIONS, *PITCHES} <= words and {*KINDS} - {"buzz"} <= words
    assert max(len(source[i]["audio"](2000, 9.0)) for i in range(300)) < 2.95 * 2000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(split="x"), "split 'x'"),
        (dict(length=0), "length=0"),
        (dict(groups=4), "groups=4"),
        (dict(captions=3), "captions=3"),
        (dict(seed=-1), "seed=-1"),
    ],
)
def test_ranges(given, message):
    with pytest.raises(ValueError, match=message):
        Tones(**given)
