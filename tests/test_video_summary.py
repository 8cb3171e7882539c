"""A video is cut where it changes, and each part told by a frame of its own and a sentence."""

import json
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

from tests import tiny
from tests.data import clips
from vlm_jax import api, experiment, modes, sharding, step, video_summary
from vlm_jax.data import pipeline
from vlm_jax.data.pipeline import InputReader
from vlm_jax.data.schema import DataError
from vlm_jax.evaluate import Run
from vlm_jax.video_summary import central, cuts
from vlm_jax.weights import pretrained

NOTHING = dict.fromkeys(("image", "text", "images", "texts", "question", "out"))


def test_cuts_are_where_vectors_turn_most():
    ways = np.eye(4)
    rows = [0] * 5 + [1] * 3 + [2] * 4
    vectors = ways[rows] * np.linspace(1, 2, 12)[:, None]  # length alone is no change
    assert cuts(vectors, 3) == cuts(vectors, 9) == [(0, 5), (5, 8), (8, 12)]
    slight = vectors + 0.1 * ways[[3] * 10 + [0] * 2]
    assert cuts(slight, 3) == [(0, 5), (5, 8), (8, 12)]
    assert cuts(vectors, 1) == cuts(np.ones((12, 4)), 5) == [(0, 12)]
    assert cuts(ways[:1], 5) == [(0, 1)]
    with pytest.raises(ValueError, match="at least one"):
        cuts(vectors, 0)


def test_cuts_are_not_next_to_each_other():
    vectors = np.eye(6)[[0, 0, 1, 2, 2, 2]]  # a flash of one frame
    assert cuts(vectors, 3) == [(0, 2), (2, 6)]


def test_the_key_frame_is_the_one_like_the_others():
    vectors = np.array([[0.0, 9.0], [1.0, 0.0], [1.1, 0.0], [1.05, 0.1], [1.0, 0.0]])
    assert central(vectors) == 3
    assert central(np.ones((5, 2))) == 2


def test_seconds_as_a_clock():
    assert [video_summary.clock(t) for t in (7.46, 67.5, 3723.0)] == [
        "0:07.5",
        "1:07.5",
        "1:02:03.0",
    ]


@lru_cache
def model():
    """A captioner of videos of three frames, from noise."""
    given = tiny.captioner()
    vit = {key: value for key, value in given["model"]["vision"].items() if key != "name"}
    given["model"]["vision"] = dict(name="frames", frames=3, vit=vit, pool="join")
    given["data"]["image"] = dict(size=32, frames=3)
    source = experiment.source(given["data"]["train"], "train")
    setup = experiment.build(given, None, source)
    example = pipeline.stack([pipeline.Loader(source, setup.read, setup.preprocess)(0)])
    state = step.initial_state(setup, example, 0)
    return api.Model(Run(setup, step.variables_of(state), sharding.make_mesh(), 8))


class OfPictures:
    """Stands for a model of pictures: their mean brightness is all it sees and says."""

    run = SimpleNamespace(experiment=SimpleNamespace(read=SimpleNamespace(frames=None)))

    def features(self, pictures):
        means = np.array([picture.mean() / 255 for picture in pictures])
        return np.stack([means, 1 - means], axis=1)

    def caption(self, pictures):
        return [f"brightness {picture.mean():.0f}" for picture in pictures]


@pytest.fixture
def cut_video(tmp_path):
    """Twelve seconds: four of dark grey, four of white, four of mid-grey."""
    shade = lambda i: (40, 250, 120)[i // 8]
    return str(clips.write(tmp_path / "x.mp4", [i / 2 for i in range(24)], shade=shade))


def test_predict_sums_a_video_up(cut_video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", lambda folder: model())
    out = tmp_path / "sheet.png"
    options = NOTHING | {"video": cut_video, "summary": True, "out": str(out)}
    assert modes.predict(None, "somewhere", options) == 0
    parts = json.loads(capsys.readouterr().out)["summary"]
    edges = [part["start"] for part in parts] + [parts[-1]["end"]]
    np.testing.assert_allclose(edges, [0, 4, 8, 12], atol=0.5)
    assert all(part["start"] <= part["time"] < part["end"] for part in parts)
    assert all(isinstance(part["caption"], str) for part in parts)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_model_of_pictures_tells_the_key_frames(cut_video):
    parts = video_summary.summarise(OfPictures(), cut_video)
    assert [part.caption for part in parts] == OfPictures().caption([p.picture for p in parts])
    np.testing.assert_allclose([p.picture.mean() for p in parts], [40, 250, 120], atol=3)
    assert len(video_summary.summarise(OfPictures(), cut_video, parts=2)) == 2


def test_predict_captions_a_video_and_names_a_broken_one(cut_video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", lambda folder: model())
    assert modes.predict(None, "somewhere", NOTHING | {"video": cut_video}) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == 3 and found["video"] == cut_video
    assert found["caption"] == model().caption(cut_video)
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    assert isinstance(model().caption(frames), str)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for summary in (None, True):
        asked = {"video": str(tmp_path / "empty.mp4"), "summary": summary}
        with pytest.raises(DataError, match="empty.mp4 is empty"):
            modes.predict(None, "somewhere", NOTHING | asked)


def test_pictures_and_parts_of_videos_have_vectors(cut_video):
    pictures = [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 200)]
    found = model().features([*pictures, pictures[0]])
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_a_published_model_of_videos_reads_as_many_frames_as_it_has_vectors_for():
    for vision, frames in ((dict(name="frames", frames=4), 4), (dict(name="vit", frames=2), None)):
        assert InputReader(8, **pretrained.frames_of({"vision": vision})).frames == frames
