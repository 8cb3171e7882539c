"""Features kept beside a data set: computed once, what the encoder says, and trained on."""

import json
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from configs import common
from vlm_jax import checkpoint, experiment, features, step, trees
from vlm_jax.data import pipeline, sources
from vlm_jax.data.features import COMPLETE, Cached, digest_of, fingerprint, identities
from vlm_jax.data.schema import DataError
from vlm_jax.data.video_images import ShuffledVideo, VideoFile, VideoPixels
from vlm_jax.tasks import retrieval
from vlm_jax.tokenizers import make_tokenizer
from vlm_jax.train import train
from vlm_jax.weights import convert, pretrained

LITE = dict(model_type="efficientnet_lite", stages=[1, 1], stem=8, head=16, num_classes=3)
BERT = dict(model_type="bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
BERT |= dict(intermediate_size=32, vocab_size=300, sentence_pooling="mean", has_pooler=False)
SCENES = common.scenes("train", length=5, size=32, captions=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))


@lru_cache
def tensors(kind):
    """A small network's tensors by their published names, every one random."""
    config = {"lite": LITE, "bert": BERT}[kind]
    family = pretrained.family_of(config)
    shapes = pretrained.shapes_of(family, config)[1]
    random = np.random.default_rng(0)
    draw = lambda path, leaf: (
        random.uniform(0.2, 0.6, leaf.shape).astype(np.float32)
        if path.endswith(("scale", "var"))
        else random.normal(0, 0.3, leaf.shape).astype(np.float32)
    )
    filled = trees.map_with_path(draw, shapes)
    return dict(convert.write(filled, family.rules(config)))


@pytest.fixture
def folders(tmp_path):
    """A vision and a text folder with everything that published ones have."""
    found = {}
    for kind, config in (("lite", LITE), ("bert", BERT)):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors(kind), folder / "model.safetensors")
        found[kind] = str(folder)
    picture = dict(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    (tmp_path / "lite" / "preprocessor_config.json").write_text(json.dumps(picture))
    scenes = sources.make_source(SCENES)
    texts = [text for i in range(len(scenes)) for text in scenes[i]["captions"]]
    learned = make_tokenizer(dict(name="wordpiece", size=300), lambda: texts)
    (tmp_path / "bert" / "tokenizer.json").write_text(learned._model.to_str())
    return found


def made(folders, **changes):
    given = dict(name="features", source=SCENES, vision=folders["lite"], text=folders["bert"])
    return sources.make_source(given | dict(tokens=True) | changes)


def test_features_are_what_the_encoders_say(folders):
    source = made(folders)
    vision, variables = features.encoder(folders["lite"])
    text, words = features.encoder(folders["bert"])
    tokenizer = features.read_tokenizer(folders["bert"])
    look = jax.jit(lambda v, x: vision.apply(v, x, method="encode_image"))
    read_text = jax.jit(lambda v, x: text.apply(v, x, method="encode_text").pooled)
    read = pipeline.InputReader(size=32)
    for index in range(5):
        example = source[index]
        pixels = read(example["image"], None)[0][None]
        found = look(variables, jnp.asarray(pixels))
        known = example["features"]
        assert known["pooled"].shape == (16,) and known["tokens"].dtype == np.float16
        np.testing.assert_allclose(known["pooled"], found.pooled[0], atol=1e-5)
        np.testing.assert_allclose(known["tokens"], found.tokens[0], rtol=1e-3, atol=1e-4)
        for caption, vector in zip(example["captions"], example["text_features"], strict=True):
            inputs = pipeline.stack([features.encoder_text(tokenizer, caption, 32)])
            inputs = {name: jnp.asarray(x) for name, x in inputs.items()}
            pooled = read_text(words, inputs)[0]
            np.testing.assert_allclose(vector, pooled, atol=1e-5)
    assert len({tuple(source[i]["features"]["pooled"]) for i in range(5)}) == 5


def test_features_are_computed_once_and_again_when_anything_changed(folders, monkeypatch):
    first, runs = made(folders), []
    write = features._images
    spy = lambda *given: runs.append(1) or write(*given)
    monkeypatch.setattr(features, "_images", spy)
    assert made(folders).images == first.images and not runs
    less = made(folders, tokens=False)
    assert less.images == first.images and set(less[0]["features"]) == {"pooled"} and not runs
    assert made(folders, length=8).texts != first.texts and not runs
    changes = [dict(source=SCENES | dict(length=4)), dict(image=dict(size=40))]
    for number, change in enumerate(changes, 1):
        assert made(folders, **change).images != first.images and len(runs) == number
    weights = dict(tensors("lite")) | {"bn1.bias": np.ones(8, np.float32)}
    save_file(weights, f"{folders['lite']}/model.safetensors")
    assert made(folders).images != first.images


def test_tokens_are_added_when_they_are_wanted(folders):
    assert "tokens" not in made(folders, tokens=False)[0]["features"]
    assert "tokens" in made(folders)[0]["features"]


def test_one_side_alone(folders):
    assert "text_features" not in made(folders, text=None)[0]
    assert "features" not in made(folders, vision=None)[0]
    with pytest.raises(ValueError, match="a vision folder, a text folder, or both"):
        made(folders, vision=None, text=None)


def test_damaged_folders_and_folders_that_are_none(folders, tmp_path):
    source = made(folders)
    with pytest.raises(DataError, match=r"config.json is missing.*prepare kit"):
        made(folders, vision=str(tmp_path))
    (source.images / "pooled.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged"):
        made(folders)
    (source.images / COMPLETE).unlink()
    assert len(made(folders)) == 5  # what was interrupted is made anew


def test_features_of_other_data_are_refused(folders):
    source = made(folders)
    with pytest.raises(DataError, match="delete it"):
        Cached(sources.make_source(SCENES | dict(length=4)), source.images, None)


class Some:
    """Two examples with these images."""

    name = "some"

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return dict(id=str(index), image=image, captions=["a b"], questions=[])


def test_pictures_that_cannot_be_read_say_so_later(folders):
    sound = np.full((32, 32, 3), 9, np.uint8)
    source = features.cached(Some(sound, b"no picture", sound), folders["lite"])
    assert "features" in source[2] and "features" not in source[1]
    read = pipeline.InputReader(size=32)
    with pytest.raises(DataError, match="not a picture"):
        pipeline.Loader(source, read, {}, on_error="raise")(1)
    with pytest.raises(DataError, match="cannot be used"):
        features.cached(Some(b"none"), folders["lite"])


def test_fingerprints_see_contents(tmp_path):
    one, two = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    key = lambda image, **settings: fingerprint(settings, identities(Some(image)))
    keys = [key(image) for image in (one, two, b"x", b"y", lambda: one)]
    (tmp_path / "a.png").write_bytes(b"x")
    keys.append(key(tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes(b"xy")
    keys += [key(tmp_path / "a.png"), key(one, a=1)]
    assert len(set(keys)) == len(keys)
    assert key(one.copy()) == keys[0]


def test_fingerprints_see_contents_of_videos(tmp_path):
    path, frames = tmp_path / "a.mp4", np.zeros((2, 4, 4, 3), np.uint8)
    key = lambda image: fingerprint({}, identities(Some(image)))
    videos = [VideoFile(str(path)), VideoFile(str(path), 1.0), VideoPixels(frames)]
    videos += [VideoPixels(frames + 1), ShuffledVideo(videos[2], 0), ShuffledVideo(videos[2], 1)]
    keys = [key(video) for video in videos]
    path.write_bytes(b"x")
    keys.append(key(VideoFile(str(path))))
    assert len(set(keys)) == len(keys)
    assert key(VideoPixels(frames.copy())) == keys[2]


def test_digests_see_every_file(folders, tmp_path):
    before = digest_of(folders["lite"])
    (tmp_path / "lite" / "more").mkdir()
    (tmp_path / "lite" / "more" / "x.json").write_text("{}")
    assert digest_of(folders["lite"]) != before


def lit(folders, **changes):
    """A dual encoder of the two networks."""
    whole = common.published("bert", BERT) | common.published("efficientnet_lite", LITE)
    model = whole | dict(vision=whole["vision"] | dict(classes=None))
    statistics = dict(image_mean=(0.4,) * 3, image_std=(0.3,) * 3)
    given = dict(name="features", source=SCENES, vision=folders["lite"], text=folders["bert"])
    return (
        dict(
            model=model | dict(contrast=dict(size=8)) | statistics,
            tasks=dict(retrieval=dict(length=32)),
            data=dict(
                train=given,
                image=dict(size=32),
                tokenizer=dict(name="published", folder=folders["bert"]),
            ),
            optimizer=common.adamw(1e-2, frozen=["vision", "text"]),
            init=dict(
                parts=dict(vision=folders["lite"], text=folders["bert"]), skip=["vision/head"]
            ),
        )
        | changes
    )


def test_a_step_on_features_is_a_step_on_pictures(folders):
    config = lit(folders)
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess)
    plain = loader.pictures()
    assert plain.source is source.pictures
    batches = [pipeline.stack([which(i) for i in range(4)]) for which in (loader, plain)]
    assert set(batches[0]["image"]) == {"pooled"} and "text_pooled" in batches[0]["retrieval"]
    state = step.initial_state(setup, pipeline.stack([plain(0)]), 0)
    state = step.start_from(state, config["init"])
    loaded = trees.flatten(state["params"])
    theirs = pretrained.read_folder(folders["lite"]).variables["params"]
    stem = theirs["vision"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(loaded["vision/stem_conv/kernel"], stem)
    frozen = trees.match(config["optimizer"]["frozen"], state["params"])
    optimizer = optax.sgd(1.0)
    state |= {"optimizer": optimizer.init(state["params"])}
    update = jax.jit(step.make_update(setup, optimizer, frozen))
    (known, losses), (expected, plain_losses) = (update(state, batch) for batch in batches)
    np.testing.assert_allclose(losses["loss"], plain_losses["loss"], rtol=1e-5)
    after = trees.flatten(expected["params"]["contrast_head"])
    for path, moved in trees.flatten(known["params"]["contrast_head"]).items():
        np.testing.assert_allclose(moved, after[path], atol=1e-5, err_msg=path)
        assert float(jnp.abs(moved - loaded[f"contrast_head/{path}"]).max()) > 1e-4


def test_a_run_on_features_trains_what_is_not_frozen(folders, tmp_path):
    more = dict(batch_size=8, total_steps=2, seed=0, schedule=dict(name="constant"))
    train(lit(folders, **more), tmp_path / "run")
    saved = checkpoint.load_params(tmp_path / "run")
    theirs = pretrained.read_folder(folders["lite"]).variables["params"]
    stem = theirs["vision"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(saved["vision/stem_conv/kernel"], stem)


def test_parts_from_folders_that_lack_them(folders):
    config = lit(folders)
    source = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess).pictures()
    state = step.initial_state(setup, pipeline.stack([loader(0)]), 0)
    with pytest.raises(ValueError, match="has no text, only vision"):
        step.start_from(state, dict(parts=dict(text=folders["lite"])))
    with pytest.raises(ValueError, match="unexpected in the loaded weights.*vision/head"):
        step.start_from(state, dict(parts=dict(vision=folders["lite"])))


def test_evaluation_reads_texts_from_features_where_all_are_there(folders):
    examples = [made(folders)[i] for i in range(5)]
    reader = retrieval._known(examples)
    for example in examples:
        for caption, vector in zip(example["captions"], example["text_features"], strict=True):
            np.testing.assert_array_equal(reader.text(caption)["text_pooled"], vector)
    assert retrieval._known([*examples, sources.make_source(SCENES)[0]]) is None
