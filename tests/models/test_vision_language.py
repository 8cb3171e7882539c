"""The wiring: what an output depends on, and what it must not depend on."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.encoders import VISION_ENCODERS
from vlm_jax.models.heads import ClassifierHead

VOCAB, B, T, SIDE = 12, 3, 5, 8
BLOCK = dict(layers=1, heads=2, mlp_width=8)
CONFIG = dict(
    vision=dict(name="vit", patch=4, image_size=SIDE, width=8, **BLOCK),
    text=dict(name="transformer", vocab=VOCAB, width=8, max_length=8, **BLOCK),
    fusion=dict(name="cross_modal", width=8, **BLOCK),
    decoder=dict(name="causal_lm", memory="attend", vocab=VOCAB, width=8, max_length=8, **BLOCK),
    contrast=dict(size=6, bias=-1.0),
    classify=dict(classes=3, hidden=8),
    reconstruct=dict(vocab=VOCAB),
)
ASKS = {"say": "generate", "find": "contrast", "answer": "classify", "mask": "reconstruct"}


def batch(seed=0):
    rng = np.random.default_rng(seed)
    tokens = lambda: jnp.asarray(rng.integers(1, VOCAB, (B, T)), jnp.int32)
    mask = jnp.arange(T)[None] < jnp.array([[5], [3], [4]])
    text = {"text": tokens(), "text_mask": mask}
    return {
        "image": jnp.asarray(rng.integers(0, 256, (B, SIDE, SIDE, 3)), jnp.uint8),
        "say": {"tokens": tokens(), "tokens_mask": mask, "prefix": jnp.ones(B, jnp.int32)},
        "find": text,
        "answer": text,
        "mask": text | {"matched": jnp.array([True] * B)},
    }


@pytest.fixture(scope="module")
def model():
    """The model, its variables full of noise, and its jitted apply."""
    made = models.build(CONFIG)
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0), batch(), ASKS))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)
    return made, variables, jax.jit(lambda inputs: made.apply(variables, inputs, ASKS))


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


PER_ROW = ("logits", "image_embeds", "text_embeds", "word_logits", "match_logits")


def rows(outputs, which):
    """Chosen rows of all outputs that have a batch axis."""
    kept = {task: {k: v for k, v in out.items() if k in PER_ROW} for task, out in outputs.items()}
    return jax.tree.map(lambda x: x[which], kept)


def test_outputs_have_the_documented_shapes(model):
    shapes = jax.tree.map(jnp.shape, model[2](batch()))
    assert shapes == {
        "say": {"logits": (B, T, VOCAB)},
        "find": {"image_embeds": (B, 6), "text_embeds": (B, 6), "scale": (), "bias": ()},
        "answer": {"logits": (B, 3)},
        "mask": {"word_logits": (B, T, VOCAB), "match_logits": (B, 2)},
    }


def test_a_row_does_not_depend_on_its_neighbours(model):
    order = jnp.array([2, 0, 1])
    other = batch(1)
    swapped = jax.tree.map(lambda a, b: a.at[1].set(b[1]), batch(), other)
    expected = model[2](batch())
    close(rows(model[2](swapped), jnp.array([0, 2])), rows(expected, jnp.array([0, 2])))
    shuffled = model[2](jax.tree.map(lambda x: x[order], batch()))
    close(rows(shuffled, slice(None)), rows(expected, order))


def test_padding_is_not_read(model):
    inputs = batch()
    blank = lambda task, key, mask: (
        inputs[task] | {key: jnp.where(inputs[task][mask], inputs[task][key], 0)}
    )
    changed = inputs | {
        "say": blank("say", "tokens", "tokens_mask"),
        **{task: blank(task, "text", "text_mask") for task in ("find", "answer", "mask")},
    }
    found, expected = model[2](changed), model[2](inputs)
    for task, key in (("say", "logits"), ("mask", "word_logits")):
        real = inputs["find"]["text_mask"]
        close(found[task].pop(key)[real], expected[task].pop(key)[real])
    close(found, expected)


def test_embeddings_are_unit_vectors_and_the_same_alone(model):
    made, variables, apply = model
    found = apply(batch())["find"]
    for name in ("image_embeds", "text_embeds"):
        np.testing.assert_allclose(jnp.linalg.norm(found[name], axis=-1), 1, rtol=1e-5)
    alone = made.apply(variables, batch()["image"], method="embed_image")
    close(alone, found["image_embeds"])
    close(made.apply(variables, batch()["find"], method="embed_text"), found["text_embeds"])


def test_mismatched_rows_are_shown_the_next_text(model):
    inputs = batch()
    matched = jnp.array([True, False, True])
    found = model[2](inputs | {"mask": inputs["mask"] | {"matched": matched}})["mask"]
    by_hand = {
        key: inputs["mask"][key].at[1].set(inputs["mask"][key][2]) for key in ("text", "text_mask")
    }
    close(found, model[2](inputs | {"mask": inputs["mask"] | by_hand})["mask"])
    last = jnp.array([True, True, False])  # the last row is shown the first text
    found = model[2](inputs | {"mask": inputs["mask"] | {"matched": last}})["mask"]
    by_hand = {
        key: inputs["mask"][key].at[2].set(inputs["mask"][key][0]) for key in ("text", "text_mask")
    }
    close(found, model[2](inputs | {"mask": inputs["mask"] | by_hand})["mask"])


class Counting(nn.Module):
    """A vision encoder that counts how often it is traced, and passes on what it was given."""

    seen: ClassVar[list] = []

    @nn.compact
    def __call__(self, image, mask=None, *, train=False):
        self.seen.append(image)
        return VISION_ENCODERS["precomputed"]()(image.reshape(len(image), -1, 3), mask)


@pytest.fixture
def counting():
    Counting.seen.clear()
    made = models.build(CONFIG).clone(vision=Counting())
    return made, Counting.seen


def test_several_tasks_share_one_pass_of_the_vision_encoder(counting):
    made, seen = counting
    jax.eval_shape(lambda: made.init(jax.random.key(0), batch(), ASKS))
    assert len(seen) == 1


def test_pixels_are_normalised_per_channel_and_features_are_not(counting):
    made, seen = counting
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.4)
    made = made.clone(image_mean=mean, image_std=std)
    pixels = batch()["image"]
    features = made.apply({}, pixels, method="encode_image")
    expected = (np.asarray(pixels) / 255 - mean) / std
    np.testing.assert_allclose(seen[0], expected, rtol=1e-4, atol=1e-5)
    assert features.tokens.shape == (B, SIDE * SIDE, 3)
    given = jnp.ones((B, 2, 3))
    np.testing.assert_array_equal(made.apply({}, given, method="encode_image").tokens, given)


def test_a_generating_task_with_a_text_reads_it_through_the_fusion(model):
    made, variables, _ = model
    inputs = batch()

    @jax.jit
    def say(text):
        given = {"image": inputs["image"], "say": inputs["say"] | text}
        return made.apply(variables, given, {"say": "generate"})["say"]["logits"]

    text = inputs["find"]
    logits, plain = say(text), model[2](inputs)["say"]["logits"]
    assert not np.allclose(logits, plain)
    assert not np.allclose(logits, say(text | {"text": text["text"].at[:, 1].set(1)}))


def test_reading_and_decoding_apart_equals_teacher_forcing(model):
    made, variables, apply = model
    inputs = batch()
    memory = made.apply(variables, inputs["image"], inputs["say"], method="read")
    logits, _ = made.apply(
        variables,
        inputs["say"]["tokens"],
        memory,
        mask=inputs["say"]["tokens_mask"],
        method="decode",
    )
    close(logits, apply(inputs)["say"]["logits"])


def test_understanding_is_fused_tokens_and_what_every_head_says():
    """Tied words by hand from the table of the text encoder, with and without regions' tokens."""
    model = models.build(
        dict(
            vision=dict(name="regions", width=8),
            text=dict(name="transformer", vocab=9, width=8, layers=0, max_length=4, pooling="none"),
            fusion=dict(name="cross_modal", width=8, layers=1, heads=2, mlp_width=8, segments=0)
            | dict(visual_projection=False),
            reconstruct=dict(vocab=9, tied=True, match=False, activation="relu"),
            regions=dict(classes=dict(kind=3, colour=2)),
            classify=dict(classes=5, hidden=6, norm="before"),
        )
    )
    inputs = {"text": jnp.array([[1, 2, 3]]), "text_mask": jnp.ones((1, 3), bool)}
    batch = {"image": jax.random.normal(jax.random.key(0), (1, 2, 4)), "words": inputs}
    asks = {"words": "understand"}
    shapes = jax.eval_shape(lambda key: model.init(key, batch, asks), jax.random.key(1))
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    @jax.jit
    def understand(variables):
        visual = model.apply(variables, batch["image"], method="encode_image")
        ask = lambda **how: model.apply(variables, visual, inputs, **how, method="understand")
        return ask(everywhere=True), ask()["word_logits"]

    found, words = understand(variables)
    assert found["tokens"].shape == (1, 5, 8)
    assert found["logits"].shape == (1, 5)
    assert found["region_kind"].shape == (1, 2, 3)
    assert found["region_colour"].shape == (1, 2, 2)
    assert "match_logits" not in found
    params = variables["params"]
    head, table = params["reconstruct_head"], params["text"]["embedding"]["token"]["embedding"]
    x = np.asarray(found["tokens"]) @ head["transform"]["kernel"] + head["transform"]["bias"]
    x = np.maximum(x, 0)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    expected = x @ np.asarray(table).T + head["words_bias"]
    np.testing.assert_allclose(found["word_logits"], expected, atol=1e-4)
    np.testing.assert_allclose(words, found["word_logits"][:, 2:], atol=1e-6)


@pytest.mark.parametrize(("place", "expected"), [("before", [0, 1.0]), ("after", [-1.0, 1.0])])
def test_a_classifiers_norm_stands_before_or_after_its_activation(place, expected):
    head = ClassifierHead(2, hidden=2, norm=place, activation="relu")
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    params = {"params": {"hidden": identity, "norm": norm, "out": identity}}
    found = head.apply(params, jnp.array([[-3.0, 5.0]]))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


AUDIO = dict(name="vit", patch=4, image_size=(8, 12), width=8, class_token=False, pooling="mean")
BINS, FRAMES = 8, 12


def hearing(seed=0):
    """The model's own batch with sounds, for pairs of any two of image, text and sound."""
    rng = np.random.default_rng(seed)
    sounds = jnp.asarray(rng.integers(0, 256, (B, BINS, FRAMES)), jnp.uint8)
    return {"audio": sounds, "image": batch()["image"], "texts": batch()["find"], "pictures": {}}


@pytest.fixture(scope="module")
def listener():
    """A model with three towers, its variables full of noise, and its jitted apply."""
    given = {name: CONFIG[name] for name in ("vision", "text", "contrast")}
    made = models.build(given | {"audio": AUDIO | BLOCK})
    asks = {"texts": "contrast", "pictures": "contrast"}
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0), hearing(), asks))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)
    return made, variables, jax.jit(lambda inputs: made.apply(variables, inputs, asks))


def test_sounds_join_images_and_texts_in_one_space(listener):
    made, variables, apply = listener
    found, other = apply(hearing()), apply(hearing(1))
    assert set(found["texts"]) == {"image_embeds", "text_embeds", "audio_embeds", "scale", "bias"}
    assert set(found["pictures"]) == set(found["texts"]) - {"text_embeds"}
    sounds = found["texts"]["audio_embeds"]
    np.testing.assert_allclose(jnp.linalg.norm(sounds, axis=-1), 1, rtol=1e-5)
    close(found["pictures"]["audio_embeds"], sounds)
    close(made.apply(variables, hearing()["audio"], method="embed_audio"), sounds)
    assert not np.allclose(other["texts"]["audio_embeds"], sounds, atol=1e-2)
    close(other["texts"]["image_embeds"], found["texts"]["image_embeds"])
    assert variables["params"]["audio"]["patch_embedding"]["kernel"].shape == (16, 8)


def test_a_spectrogram_is_read_as_bytes_or_numbers_and_knows_high_from_low(listener):
    made, variables, _ = listener
    hear = jax.jit(lambda x: made.apply(variables, x, method="embed_audio"))
    sounds = hearing()["audio"]
    close(hear(sounds / 127.5 - 1.0), hear(sounds))
    for changed in (sounds[:, ::-1], sounds[:, :, ::-1]):
        assert not np.allclose(hear(changed), hear(sounds), atol=1e-2)
