"""Retrieved texts reach the decoder, as words or as Features, and nothing else is needed for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.data.pipeline import mirrored, several, stack
from vlm_jax.tasks import TASKS
from vlm_jax.tasks.retrieved import Neighbours
from vlm_jax.tokenizers import make_tokenizer

TEXTS = ["a red star left of a dog", "a blue dog", "one two three four five"]
TOKENIZER = make_tokenizer({"name": "byte"}, lambda: TEXTS)
TEMPLATE = "Similar images show\n\n{prompt}\n\nThis image shows {bos}"


def example(count=2):
    question = {"question": "what is it", "answers": ["dog"]}
    captions = ["a star", "a dog"]
    found = {"id": "7", "image": np.zeros((8, 8, 3), np.uint8), "captions": captions}
    return found | {"questions": [question], "retrieved": TEXTS[:count]}


def task(name="captioning", **retrieved):
    given = {"answers": ("dog", "cat")} if name == "vqa" else {}
    given |= {"template": TEMPLATE} if name != "vqa" and retrieved.get("to") != "memory" else {}
    return TASKS[name](TOKENIZER, length=20, retrieved=retrieved, **given)


def test_the_prompt_is_the_papers_template_around_the_nearest_texts():
    captioning = task(k=2, length=30)
    query = captioning.query(example(3))
    read = TOKENIZER.decode(query["tokens"][: query["prefix"] - 1])
    wanted = f"Similar images show\n\n{TEXTS[0]}\n\n{TEXTS[1]}\n\nThis image shows "
    assert read == wanted
    arrays = captioning.preprocess(example(), None)
    assert arrays["prefix"] == query["prefix"]
    shown = arrays["targets"][arrays["targets_mask"]]
    assert TOKENIZER.decode(shown) == "a star"


def test_the_arrays_have_one_size_for_any_number_of_neighbours():
    captioning = task(k=3, length=30)
    rows = [captioning.query(example(count)) for count in range(4)]
    rows.append(captioning.query({k: v for k, v in example().items() if k != "retrieved"}))
    assert len({row["tokens"].shape for row in rows}) == 1
    assert rows[0]["prefix"] == rows[4]["prefix"] < rows[1]["prefix"] < rows[3]["prefix"]
    assert len({task(k=3).preprocess(example(c), None)["tokens"].shape for c in range(4)}) == 1


def test_long_texts_lose_their_ends_and_the_template_nothing():
    query = task(k=2, length=5).query(example())
    read = TOKENIZER.decode(query["tokens"][: query["prefix"] - 1])
    assert read == "Similar images show\n\na red\n\na blu\n\nThis image shows "


def test_training_may_see_fewer_and_evaluation_never():
    near = Neighbours(k=3, fewer=1.0)
    rng = np.random.default_rng(0)
    counts = [len(near.used(example(3), rng)) for _ in range(60)]
    assert set(counts) == {0, 1, 2, 3}
    assert len(near.used(example(3), None)) == len(Neighbours(k=3).used(example(3), rng)) == 3


def test_left_and_right_are_exchanged_in_neighbours_too():
    assert mirrored(example())["retrieved"][0] == "a red star right of a dog"


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match='retrieved.to=\'words\': choose "prompt" or "memory"'):
        task(to="words").query(example())
    with pytest.raises(ValueError, match="must be at least 1"):
        task(k=0).query(example())
    with pytest.raises(TypeError, match="did you mean 'between'"):
        task(betwen=" ").query(example())
    with pytest.raises(ValueError, match='set its retrieved.to to "memory"'):
        task("vqa", k=2)


BLOCK = {"width": 8, "heads": 2, "mlp_width": 8, "layers": 1, "vocab": 261, "max_length": 64}
CONFIG = {
    "vision": {"name": "resnet", "depth": 18, "stages": (1,), "norm": "group", "groups": 2}
    | {"width": 8},
    "text": {"name": "transformer", **BLOCK},
    "fusion": {"name": "attention", "heads": 2},
    "decoder": {"name": "causal_lm", "memory": "attend", **BLOCK},
    "classify": {"classes": 2},
}


def outputs(name, rows):
    """Logits of a model with all parameters random for examples of one task."""
    model = models.build(CONFIG)
    one = task(name, k=2, to="memory", length=12)
    inputs = stack([dict(one.preprocess(row, None)) for row in rows])
    batch = {"image": np.stack([row["image"] for row in rows]), "t": inputs}
    batch = jax.tree.map(jnp.asarray, batch)
    asks = {"t": one.head}
    variables = jax.jit(lambda key: model.init(key, batch, asks))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 999))
    variables = jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), variables)
    return jax.jit(lambda v, b: model.apply(v, b, asks)["t"]["logits"])(variables, batch)


@pytest.mark.parametrize("name", ["captioning", "vqa"])
def test_features_of_neighbours_inform_what_reads_the_memory(name):
    rows = [example(0), example(1), example(2), example(2) | {"retrieved": TEXTS[1::-1]}]
    found = outputs(name, rows)
    assert jnp.isfinite(found).all()
    apart = lambda a, b: float(jnp.max(jnp.abs(found[a] - found[b])))
    assert apart(0, 1) > 1e-3 and apart(1, 2) > 1e-3
    # The nearest texts are a set: each is read by itself, and attention has no order.
    assert apart(2, 3) < 1e-5
    without = [{k: v for k, v in row.items() if k != "retrieved"} for row in rows]
    np.testing.assert_allclose(outputs(name, without)[3], found[0], atol=1e-6)


def test_several_texts_of_an_image_share_its_neighbours():
    one = task("captioning", k=2, to="memory", length=12)
    made = several(one.preprocess, "captions", 2)(example(), None)
    assert made["retrieved"].shape == (2, 2, 12)
    np.testing.assert_array_equal(made["retrieved"][0], made["retrieved"][1])


def test_features_need_a_text_encoder():
    config = {key: CONFIG[key] for key in ("vision", "decoder")}
    one = task(k=2, to="memory", length=12)
    batch = {"image": example()["image"][None], "t": stack([dict(one.preprocess(example(), None))])}
    batch = jax.tree.map(jnp.asarray, batch)
    with pytest.raises(ValueError, match="add config.model.text"):
        jax.eval_shape(
            lambda: models.build(config).init(jax.random.key(0), batch, {"t": "generate"})
        )
