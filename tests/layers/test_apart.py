"""Decoders whose layers are apart write what those in one stack do, and copy no layer in a step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import decode, models
from vlm_jax.layers import apart
from vlm_jax.layers.apart import stepper, with_apart

VOCAB, WIDTH, LAYERS = 40, 16, 3
LM = dict(name="causal_lm", vocab=VOCAB, width=WIDTH, layers=LAYERS, heads=4, mlp_width=24)
LM |= dict(max_length=64)
KINDS = {
    "prepended": dict(memory="prepend"),
    "attended": dict(memory="attend"),
    "windows and groups of queries": dict(
        memory="prepend",
        **dict(windows=(3, None), pattern=(0, 1), attention=dict(kv_heads=2)),
        **dict(ropes=(dict(theta=100.0), dict(theta=50.0)), positions="none", norm="rms"),
    ),
}
VISION = dict(name="vit", patch=8, image_size=16, width=12, layers=1, heads=2, mlp_width=16)


def made(kind):
    """A captioner with random parameters, pictures, and prompts of two lengths."""
    network = models.build(dict(vision=VISION | dict(pooling="none"), decoder=LM | KINDS[kind]))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 16, 16, 3)), jnp.float32)
    mask = jnp.array([[True] * 4, [True] * 4, [False, False, True, True]])
    tokens = jnp.asarray(rng.integers(5, VOCAB, (3, 4)), jnp.int32)
    words = {"tokens": tokens, "tokens_mask": mask, "prefix": jnp.sum(mask, axis=1)}
    batch = {"image": images, "words": words}
    init = lambda: network.init(jax.random.key(0), batch, {"words": "generate"})
    shapes = jax.eval_shape(init)
    draw = lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype)
    return network, jax.tree.map(draw, shapes), batch


def program(network, search):
    """(variables, batch) -> what is written."""

    @jax.jit
    def write(variables, batch):
        ask = lambda method: partial(network.apply, variables, method=method)
        words = batch["words"]
        return decode.generate(
            *(ask("decode"), ask("init_cache"), words["tokens"], words["tokens_mask"]),
            *(ask("read")(batch["image"], words), search),
            prefix=words["prefix"],
            step=stepper(network, variables),
        )

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, dict(beams=3, n_best=2)], ids=["greedy", "beams"])
def test_the_same_texts_are_written(kind, options):
    network, variables, batch = made(kind)
    given = dict(max_length=9, eos=(2,), banned=(0, 1), pad=0, no_repeat_ngram=1)
    search = decode.Search(**given, **options)
    write = program(network, search)
    expected, found = write(variables, batch), write(with_apart(variables), batch)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert len(np.unique(np.asarray(found.tokens))) > 4


def loops(text, shape):
    """How many loops of a program carry an array of this shape."""
    stack = f"f32[{','.join(map(str, shape))}]"
    return sum(stack in line for line in text.splitlines() if " while(" in line)


def test_no_step_takes_a_layer_out_of_its_stack():
    network, variables, batch = made("prepended")
    search = decode.Search(max_length=9, eos=(2,), pad=0)
    compiled = lambda given: program(network, search).lower(given, batch).compile().as_text()
    shape = (LAYERS, WIDTH, 24)  # of the MLPs' first layers
    # The prompt goes through the stack in both; steps, and the layers of each, in one.
    assert loops(compiled(variables), shape) > 1
    assert loops(compiled(with_apart(variables)), shape) == 1


def test_where_it_does_not_pay_variables_stay_as_they_are(monkeypatch):
    _, variables, _ = made("prepended")
    assert stepper(None, variables) is None
    assert with_apart({"params": {"vision": {}}}) == {"params": {"vision": {}}}
    monkeypatch.setattr(apart, "platform", lambda: "tpu")
    assert with_apart(variables) is variables
    monkeypatch.setattr(apart, "platform", lambda: "cpu")
    monkeypatch.setattr(apart, "MOST", 1000)
    assert with_apart(variables) is variables
