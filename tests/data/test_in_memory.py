import numpy as np
import pytest

from vlm_jax.data import in_memory
from vlm_jax.data.audio import Waveform, no_picture
from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.video_images import VideoFile, VideoPixels

PIXELS = np.zeros((2, 3, 3), np.uint8)


def test_pictures_and_videos_become_examples():
    given = ["a.png", PIXELS, "b.mp4", PIXELS[None]]
    source = in_memory.pictures(given)
    examples = [validate(example, "here") for example in source]
    assert [example["id"] for example in examples] == ["a.png", "picture 1", "b.mp4", "picture 3"]
    assert [example["image"] for example in examples[:3]] == ["a.png", PIXELS, VideoFile("b.mp4")]
    assert isinstance(examples[3]["image"], VideoPixels)
    assert not any(example["questions"] or example["captions"] for example in examples)
    with pytest.raises(IndexError, match=r"position 4 is outside \[0, 4\) of your pictures"):
        source[4]
    with pytest.raises(DataError, match="a video array is uint8"):
        in_memory.pictures([np.zeros((1, 2, 3, 4), np.uint8)])


def test_each_picture_may_have_a_question():
    source = in_memory.pictures([PIXELS] * 2, ["who", "where"])
    assert [example["questions"][0]["question"] for example in source] == ["who", "where"]


def test_sounds_become_examples_without_a_picture():
    silence = np.zeros(8, np.int16), 16_000
    source = in_memory.sounds(["a.wav", silence])
    assert len(source) == 2 and [example["id"] for example in source] == ["a.wav", "sound 1"]
    assert isinstance(source[1].get("audio"), Waveform)
    assert all(example["image"] is no_picture for example in source)
    with pytest.raises(DataError, match="this is a list"):
        in_memory.sounds([[0.0]])
