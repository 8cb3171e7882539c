"""Shares of image tokens: by hand on small models, and for every kind of fusion and decoder."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.insight import attention
from vlm_jax.insight.subject import NothingSeen, Subject, scores
from vlm_jax.models import watch

BLOCK = dict(heads=2, mlp_width=8)
VIT = dict(name="vit", patch=8, width=8, layers=2, image_size=16, **BLOCK)
PATCHES = VIT | dict(class_token=False, pooling="mean")
TEXT = dict(name="transformer", vocab=11, width=8, layers=1, max_length=8, **BLOCK)
DECODER = dict(name="causal_lm", vocab=11, width=8, layers=2, max_length=16, **BLOCK)
RESNET = dict(name="resnet", stages=(1, 1), width=4, stem="small", norm="group", groups=2)

IMAGE = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
TOKENS = dict(
    tokens=jnp.array([[1, 2, 3, 4], [1, 5, 6, 0]]),
    tokens_mask=jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool),
    prefix=jnp.array([1, 1]),
    targets=jnp.array([[2, 3, 4, 9], [5, 6, 9, 0]]),
)
WORDS = dict(
    text=jnp.array([[1, 2, 3], [4, 5, 0]]), text_mask=jnp.array([[1, 1, 1], [1, 1, 0]], bool)
)
PICK = jnp.array([[0.0, 1, 0, 0], [0, 0, 1, 0]])
ONE = jnp.ones((2, 1))


@lru_cache
def made(name):
    """(model, variables, subject) of a wiring of WIRINGS, every parameter random."""
    config, ask = WIRINGS[name]
    inputs = {"generate": TOKENS, "classify": WORDS | {"label": jnp.array([0, 2])}}.get(ask, WORDS)
    if ask == "generate" and "text" in config:
        inputs = inputs | WORDS
    if dict(config.get("decoder") or {}).get("memory") == "insert":
        start = jnp.full((2, 4), 10)
        inputs = {k: jnp.concatenate([start, v], 1) if v.ndim > 1 else v for k, v in inputs.items()}
        inputs["tokens_mask"] = inputs["tokens_mask"].astype(bool)
    pick = PICK if ask == "generate" else ONE
    if ask == "generate" and inputs["tokens"].shape[1] > 4:
        pick = jnp.pad(pick, ((0, 0), (4, 0)))
    subject = Subject(ask, IMAGE, inputs, pick)
    model = models.build(config)
    batch = {"image": IMAGE, "x": inputs}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(1), batch, {"x": ask}))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return model, jax.tree.unflatten(structure, drawn), subject


CLASSIFY = dict(hidden=4, classes=3)
WIRINGS = {
    "cross-attention": (dict(vision=PATCHES, decoder=DECODER | dict(memory="attend")), "generate"),
    "cnn, cross-attention": (
        dict(vision=RESNET, decoder=DECODER | dict(memory="attend")), "generate"
    ),
    "prefix": (dict(vision=PATCHES, decoder=DECODER), "generate"),
    "class token kept, prefix": (
        dict(vision=VIT | dict(keep_class_token=True), decoder=DECODER), "generate"
    ),
    "insert": (
        dict(vision=PATCHES, decoder=DECODER | dict(memory="insert", image_token=10)), "generate"
    ),
    "attending lstm": (
        dict(
            vision=RESNET,
            decoder=dict(name="attending_lstm", vocab=11, width=8, attention_width=4),
        ),
        "generate",
    ),
    "q-former, prefix": (
        dict(
            vision=PATCHES,
            connector=dict(name="qformer", queries=3, width=8, layers=2, **BLOCK),
            decoder=DECODER,
        ),
        "generate",
    ),
    "attention fusion": (
        dict(vision=PATCHES, text=TEXT, fusion=dict(name="attention", heads=2), classify=CLASSIFY),
        "classify",
    ),
    "co-attention": (
        dict(
            vision=PATCHES,
            text=TEXT,
            fusion=dict(name="coattention", width=8, **BLOCK),
            classify=CLASSIFY,
        ),
        "classify",
    ),
    "cross-modal": (
        dict(
            vision=PATCHES,
            text=TEXT,
            fusion=dict(name="cross_modal", width=8, layers=2, pooling="class", **BLOCK),
            classify=CLASSIFY,
        ),
        "classify",
    ),
    "text fusion, decoder": (
        dict(
            vision=PATCHES,
            text=TEXT,
            fusion=dict(name="attention", heads=2),
            decoder=DECODER | dict(memory="attend"),
        ),
        "generate",
    ),
    "dual encoder": (dict(vision=VIT, text=TEXT, contrast=dict(size=4)), "contrast"),
    "attention pooling": (
        dict(vision=PATCHES | dict(pooling="attention"), text=TEXT, contrast=dict(size=4)),
        "contrast",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRINGS)
def test_every_wiring_has_shares_of_its_image_tokens(name):
    model, variables, subject = made(name)
    tokens = 5 if "kept" in name else 4
    for method in (attention.attended, attention.rollout):
        shares = jax.eval_shape(lambda v, m=method: m(model, v, subject), variables)
        assert shares.shape == (2, tokens if "cnn" not in name and "lstm" not in name else 64)


def test_nothing_to_see_without_attention():
    parts = dict(vision=RESNET, text=dict(name="bag_of_words", vocab=11, width=8))
    WIRINGS["none"] = (parts | dict(contrast=dict(size=4)), "contrast")
    model, variables, subject = made("none")
    with pytest.raises(NothingSeen, match="grad_cam"):
        attention.rollout(model, variables, subject)


def weights_of(name, heads=False):
    model, variables, subject = made(name)
    call = lambda given, mutable: scores(model, given, subject, mutable)
    _, watched = watch.attention(call, variables, heads=heads)
    return {(one.path, one.layer): one.value[:, 0] for one in watch.in_order(watched)}


def run(method, name):
    model, variables, subject = made(name)
    return np.asarray(jax.jit(lambda v: method(model, v, subject))(variables))


def test_direct_attention_of_a_prefix_is_the_mean_of_its_rows():
    """The token before the picked target looks at the four patches in front of the text."""
    weights = weights_of("prefix")
    layers = [weights["decoder/transformer/layers/self_attention", i] for i in range(2)]
    expected = [sum(w[b, 4 + place, :4] for w in layers) for b, place in ((0, 1), (1, 2))]
    np.testing.assert_allclose(run(attention.attended, "prefix"), expected, rtol=1e-4)


def test_rollout_multiplies_what_every_layer_passes_on():
    """Vision layers, then by turns what is written so far and the picture."""
    weights = weights_of("cross-attention")
    image = np.broadcast_to(np.eye(4), (2, 4, 4))
    for i in range(2):
        attended = weights["vision/transformer/layers/self_attention", i] @ image
        image = 0.5 * image + 0.5 * attended
    text = np.zeros((2, 4, 4))
    for i in range(2):
        own = weights["decoder/transformer/layers/self_attention", i]
        text = 0.5 * text + 0.5 * own @ text
        seen = weights["decoder/transformer/layers/cross_attention", i]
        text = 0.5 * text + 0.5 * seen @ image
    expected = [text[0, 1], text[1, 2]]
    np.testing.assert_allclose(run(attention.rollout, "cross-attention"), expected, rtol=1e-4)


def test_a_class_token_collects_what_its_layers_look_at():
    weights = weights_of("dual encoder")
    image = np.broadcast_to(np.pad(np.eye(4), ((1, 0), (0, 0))), (2, 5, 4))
    for i in range(2):
        attended = weights["vision/transformer/layers/self_attention", i] @ image
        image = 0.5 * image + 0.5 * attended
    np.testing.assert_allclose(run(attention.rollout, "dual encoder"), image[:, 0], rtol=1e-4)


def test_a_recurrent_decoder_shows_its_own_weights():
    model, variables, subject = made("attending lstm")
    batch = {"image": IMAGE, "x": subject.inputs}
    outputs = model.apply(variables, batch, {"x": "generate"})["x"]
    expected = [outputs["attention"][0, 1], outputs["attention"][1, 2]]
    np.testing.assert_allclose(run(attention.attended, "attending lstm"), expected, atol=1e-6)


def test_relevance_counts_heads_by_their_gradient():
    """Of one cross-attention layer alone: the mean over heads of weight times positive slope."""
    WIRINGS["one layer"] = (
        dict(vision=RESNET, decoder=DECODER | dict(memory="attend", layers=1)), "generate"
    )  # fmt: skip
    model, variables, subject = made("one layer")
    key = ("decoder/transformer/layers/cross_attention", 0)
    call = lambda given, mutable: scores(model, given, subject, mutable)

    def total(added):
        each, watched = watch.attention(call, variables, {key: added})
        return jnp.sum(each), watched.values[key]

    slope, weights = jax.jit(jax.grad(total, has_aux=True))(jnp.zeros((1, 2, 2, 4, 64)))
    expected = np.maximum(slope * weights, 0)[0].mean(1)
    found = run(attention.relevance, "one layer")
    np.testing.assert_allclose(found, [expected[0, 1], expected[1, 2]], rtol=1e-3, atol=1e-7)
