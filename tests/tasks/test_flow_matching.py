"""Flow matching: what an example teaches, when on the path, and that pictures depend on themselves
alone.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models, sharding
from vlm_jax.data.schema import DataError
from vlm_jax.evaluate import Run
from vlm_jax.tasks.flow_matching import FlowMatching
from vlm_jax.tokenizers import make_tokenizer

WORDS = ["a red circle", "a blue square"]
TOKENIZER = make_tokenizer({"name": "word"}, lambda: WORDS)
LABELS = ("cat", "dog")
TEXT = dict(name="transformer", vocab=12, width=6, layers=1, heads=2, mlp_width=8, max_length=6)
NETWORK = dict(size=8, channels=3, patch=4, width=8, layers=1, heads=2, mlp_width=8)


class Source(list):
    name = "two texts"


EXAMPLES = Source(
    {"id": f"e{i}", "captions": [WORDS[i % 2]], "label": LABELS[i % 2]} for i in range(8)
)


def task(labels=(), **given):
    return FlowMatching(TOKENIZER, labels, length=6, **given)


def times(**given):
    rng = np.random.default_rng(0)
    return np.array([task(**given).preprocess(EXAMPLES[0], rng)["time"] for _ in range(4000)])


def test_times_are_uniform_or_crowd_in_the_middle():
    uniform, middle = times(time="uniform"), times()
    np.testing.assert_allclose(np.quantile(uniform, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    logit = np.log(middle / (1 - middle))
    assert abs(logit.mean()) < 0.05 and abs(logit.std() - 1) < 0.05
    late = times(centre=1.0, spread=0.5)
    assert abs(np.log(late / (1 - late)).mean() - 1) < 0.05


@pytest.mark.parametrize("labels", [(), LABELS])
def test_texts_and_classes_are_dropped_in_training_only(labels):
    told, key = task(labels, drop=0.5), "label" if labels else "text"
    rng, blank = np.random.default_rng(0), told.read("")[key]
    drawn = [told.preprocess(EXAMPLES[1], rng)[key] for _ in range(300)]
    assert 0.4 < np.mean([np.array_equal(x, blank) for x in drawn]) < 0.6
    own = task(labels, drop=1.0).preprocess(EXAMPLES[1], None)[key]
    np.testing.assert_array_equal(own, told.read("dog" if labels else WORDS[1])[key])
    assert not np.array_equal(own, blank)


def test_evaluation_is_always_at_the_same_time_and_from_the_same_noise():
    first, again = (task().preprocess(EXAMPLES[1], None) for _ in range(2))
    other = task().preprocess(EXAMPLES[2], None)
    assert first["time"] == again["time"] and first["noise"] == again["noise"]
    assert first["time"] != other["time"] and first["noise"] != other["noise"]


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(DataError, match="e9 has no caption"):
        task().preprocess({"id": "e9", "captions": []}, None)
    with pytest.raises(DataError, match="e9 has label 'cow'"):
        task(LABELS).preprocess({"id": "e9", "captions": [], "label": "cow"}, None)
    with pytest.raises(ValueError, match="'cow' is not among the 2 classes"):
        task(LABELS).read("cow")
    with pytest.raises(ValueError, match="logit_normal"):
        task(time="cosine")


def test_the_loss_is_the_mean_square_of_each_example():
    rng = np.random.default_rng(0)
    outputs = {key: rng.normal(size=(3, 4, 4, 2)) for key in ("velocity", "target")}
    expected = [np.mean((v - t) ** 2) for v, t in zip(*outputs.values(), strict=True)]
    np.testing.assert_allclose(task().loss(outputs, {}), expected, rtol=1e-5)


class Sure:
    """Stands for a model that knows the way if it is told the right text."""

    def rows(self, ask, source, inputs):
        for i, example in enumerate(source):
            right = np.array_equal(inputs(example)["text"], task().read(WORDS[i % 2])["text"])
            target = np.zeros((2, 2, 1), np.float32)
            yield i, {"velocity": target + (0.5 if right else 2.0), "target": target}


def test_evaluation_stands_beside_that_of_another_text():
    found = dict(task().evaluate(Sure(), EXAMPLES, drawn=0))
    assert found["velocity_error"].value == pytest.approx(0.25)
    assert found["velocity_error/other_text"].value == pytest.approx(4.0)
    assert found["n"] == 8


@functools.lru_cache
def run():
    """A tiny model that draws, with every parameter randomised."""
    model = models.build(
        dict(name="flow_generator", network=NETWORK, text=TEXT | dict(pooling="mean"))
    )
    rng = np.random.default_rng(0)
    inputs = {key: jnp.asarray(x)[None] for key, x in task().preprocess(EXAMPLES[0], None).items()}
    batch = {"image": jnp.zeros((1, 8, 8, 3), jnp.uint8), "task": inputs}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, {"task": "velocity"}))
    variables = jax.tree.map(lambda x: (rng.normal(size=x.shape) / 4).astype(np.float32), shapes)
    return Run(SimpleNamespace(model=model), variables, sharding.make_mesh(), 8)


def test_a_picture_is_the_same_in_any_batch():
    whole = task().draw(run(), WORDS * 4, steps=3, seed=5)
    assert whole.shape == (8, 8, 8, 3) and whole.dtype == np.uint8
    close = lambda a, b: np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)
    close(task().draw(run(), WORDS, steps=3, seed=5), whole[:2])
    close(task().draw(run(), WORDS * 8, steps=3, seed=5)[:8], whole)
    assert np.abs(whole[0].astype(int) - whole[2]).max() > 20  # of the same text
    again = task().draw(run(), WORDS, steps=3, seed=6)
    assert np.abs(again[0].astype(int) - whole[0]).max() > 20


def test_guidance_leads_away_from_what_is_drawn_without_the_text():
    told, untold, far = (
        task().draw(run(), WORDS[:1], steps=1, method="euler", guidance=scale).astype(float)
        for scale in (1.0, 0.0, 2.0)
    )
    blank = task().draw(run(), [""], steps=1, method="euler", guidance=1.0)
    np.testing.assert_allclose(untold, blank, atol=1)
    inside = (far > 0) & (far < 255) & (told > 0) & (told < 255) & (untold > 0) & (untold < 255)
    assert inside.sum() > 20
    np.testing.assert_allclose(far[inside], (2 * told - untold)[inside], atol=3)
