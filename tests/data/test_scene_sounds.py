import numpy as np
import pytest

from vlm_jax.data.scene_graph import COLOURS, RADII, SHAPES
from vlm_jax.data.scene_sounds import (
    BEAT,
    PITCHES,
    SIZES,
    TIMBRES,
    SceneSound,
    SceneSounds,
    content,
    order,
)
from vlm_jax.data.scenes import Scenes
from vlm_jax.data.schema import Audio, DataError
from vlm_jax.data.sources import make_source

RATE = 16_000


def thing(x, y, size="large", colour="red", shape="circle"):
    return dict(centre=[x, y], size=size, colour=colour, shape=shape)


def scene(*things):
    return dict(size=90, objects=list(things))


def test_every_attribute_has_a_sound_of_its_own():
    assert TIMBRES.keys() == set(SHAPES) and len(set(TIMBRES.values())) == len(SHAPES)
    assert PITCHES.keys() == COLOURS.keys() and SIZES.keys() == RADII.keys()
    assert np.diff(list(PITCHES.values())).min() > 50


def test_objects_sound_by_columns_and_then_from_the_top():
    first, second, third = thing(20, 80), thing(10, 50), thing(40, 10)
    assert order(scene(third, first, second)) == [second, first, third]
    assert content(scene(third, first)) == "large red circle, large red circle"


def test_pitch_length_and_time_can_be_heard():
    low = thing(20, 10, "large", "red")
    high = thing(70, 10, "small", "pink")
    found = SceneSound(scene(high, low), 3)(RATE, 9.0)
    assert found.dtype == np.float32 and np.abs(found).max() <= 1
    beat = round(BEAT * RATE)
    for part, colour in ((found[:beat], "red"), (found[beat:], "pink")):
        loudest = np.abs(np.fft.rfft(part)).argmax() * RATE / len(part)
        assert abs(loudest / PITCHES[colour] - 1) < 0.04
    loud = lambda part: (np.abs(part) > 0.1).sum() / RATE
    assert loud(found[:beat]) > 1.8 * loud(found[beat:])


def test_a_source_of_scenes_gets_sounds_that_depend_on_id_and_seed_alone():
    plain = Scenes("test", length=4, objects=(2, 3))
    source, other = SceneSounds(plain), SceneSounds(plain, seed=1)
    assert source.name == "scenes/test/sounding" and len(source) == 4
    one, again = (
        source[1],
        make_source(
            dict(name="scene_sounds", source=dict(name="scenes", split="test", objects=(2, 3)))
        )[1],
    )
    assert isinstance(one["audio"], Audio) and one["captions"] == plain[1]["captions"]
    np.testing.assert_array_equal(one["audio"](RATE, 9.0), again["audio"](RATE, 9.0))
    assert len(one["audio"](RATE, 0.25)) == 4000
    changed = other[1]["audio"](RATE, 9.0)
    size = min(len(changed), len(one["audio"](RATE, 9.0)))
    assert (changed[:size] != one["audio"](RATE, 9.0)[:size]).any()
    assert one["content"] == content(one["scene"]) == other[1]["content"]


def test_only_scenes_sound():
    source = SceneSounds(make_source(dict(name="tones", length=2)))
    with pytest.raises(DataError, match="tones/train/sounding, example train-0: only scenes"):
        source[0]
