"""Transformer text encoders: BERT-type and CLIP-type embeddings, masks and pooling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.text_transformer import TransformerEncoder
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Features

TINY = {"vocab": 9, "width": 8, "layers": 2, "heads": 2, "mlp_width": 12, "max_length": 6}
BERT = {
    "norm_first": False,
    "embedding_norm": True,
    "token_types": 2,
    "pooler": "tanh",
    "epsilon": 1e-12,
}
TOKENS = jnp.array([[3, 1, 4, 7, 0, 0], [5, 7, 2, 6, 7, 8]])
MASK = TOKENS > 0


def apply(module, variables, *inputs, train=False, **named):
    """Module.apply, compiled as one program."""
    return jax.jit(partial(module.apply, train=train))(variables, *inputs, **named)


def test_bert_is_summed_embeddings_a_norm_a_post_norm_stack_and_a_pooler(randomise):
    encoder, types = TransformerEncoder(**TINY, **BERT), jnp.array([[0, 0, 1, 1, 1, 1]] * 2)
    everything = jnp.ones_like(MASK)
    variables = randomise(encoder, TOKENS, everything)
    params = variables["params"]
    x = (
        params["embedding"]["token"]["embedding"][np.asarray(TOKENS)]
        + params["embedding"]["position"]
    )
    x = x + params["type_embedding"]["embedding"][np.asarray(types)]
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    x = x * params["embeddings_norm"]["scale"] + params["embeddings_norm"]["bias"]
    stack = Transformer(2, 2, 12, norm_first=False, final_norm=False, epsilon=1e-12)
    expected, _ = apply(stack, {"params": params["transformer"]}, jnp.asarray(x))
    features = apply(encoder, variables, TOKENS, everything, types)
    np.testing.assert_allclose(features.tokens, expected, atol=1e-4)
    dense = params["pooler_dense"]
    pooled = np.tanh(np.asarray(expected)[:, 0] @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(features.pooled, pooled, atol=1e-4)
    untyped = apply(encoder, variables, TOKENS, everything)
    first = apply(encoder, variables, TOKENS, everything, jnp.zeros_like(TOKENS))
    np.testing.assert_array_equal(untyped.tokens, first.tokens)


@pytest.mark.parametrize("fields", [BERT, {"causal": True, "pooling": "last"}, {"pooling": "mean"}])
def test_padding_and_other_texts_change_nothing(randomise, fields):
    encoder = TransformerEncoder(**TINY, **fields)
    variables = randomise(encoder, TOKENS, MASK)
    features = apply(encoder, variables, TOKENS, MASK)
    alone = apply(encoder, variables, TOKENS[:1, :4], MASK[:1, :4])
    np.testing.assert_allclose(features.pooled[:1], alone.pooled, atol=1e-5)
    np.testing.assert_allclose(features.tokens[:1, :4], alone.tokens, atol=1e-5)
    np.testing.assert_array_equal(features.mask, MASK)
    garbage = jnp.where(MASK, TOKENS, 8)
    np.testing.assert_array_equal(apply(encoder, variables, garbage, MASK).pooled, features.pooled)


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_bidirectional_encoder_looks_ahead(randomise, causal):
    encoder = TransformerEncoder(**TINY, causal=causal)
    variables = randomise(encoder, TOKENS, MASK)
    changed = TOKENS.at[1, 3].set(1)
    run = lambda tokens: np.asarray(apply(encoder, variables, tokens, MASK).tokens[1])
    change = np.abs(run(changed) - run(TOKENS)).max(axis=-1)
    assert (change[:3].max() == 0) == causal
    assert change[3:].min() > 1e-4


def test_pooling_picks_the_right_position(randomise):
    encoder = TransformerEncoder(**TINY, eos_id=7)
    variables = randomise(encoder, TOKENS, MASK)
    tokens = TOKENS.at[0, 3].set(2)  # now the first text holds no 7
    for pooling, positions in (("first", (0, 0)), ("last", (3, 5)), ("eos", (3, 1))):
        features = encoder.clone(pooling=pooling).apply(variables, tokens, MASK)
        expected = features.tokens[jnp.arange(2), jnp.array(positions)]
        np.testing.assert_array_equal(features.pooled, expected)
    assert apply(encoder.clone(pooling="none"), variables, tokens, MASK).pooled is None


def test_an_end_of_text_id_in_the_padding_does_not_count(randomise):
    encoder = TransformerEncoder(**TINY, pooling="eos", eos_id=7)
    variables = randomise(encoder, TOKENS, MASK)
    tokens = jnp.array([[3, 1, 4, 2, 7, 7]])
    features = encoder.apply(variables, tokens, MASK[:1])
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 3])


def test_attend_padding_treats_padding_as_text(randomise):
    encoder = TransformerEncoder(**TINY, attend_padding=True, pooling="last", pooler="linear")
    variables = randomise(encoder, TOKENS, MASK)
    features = apply(encoder, variables, TOKENS, MASK)
    full = apply(encoder, variables, TOKENS, jnp.ones_like(MASK))
    assert bool(features.mask.all())
    np.testing.assert_array_equal(features.pooled, full.pooled)
    dense = variables["params"]["pooler_dense"]
    expected = np.asarray(features.tokens)[:, -1] @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(features.pooled, expected, atol=1e-4)


def test_bfloat16_compute_keeps_float32_parameters(randomise):
    encoder = TransformerEncoder(**TINY, **BERT, dtype=jnp.bfloat16)
    variables = randomise(encoder, TOKENS, MASK)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    features = apply(encoder, variables, TOKENS, MASK)
    assert features.tokens.dtype == features.pooled.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling='max'"),
        ({"pooler": "relu"}, "pooler='relu'"),
        ({"pooling": "eos"}, "needs eos_id"),
        ({"pooling": "none", "pooler": "tanh"}, "has nothing to read"),
        ({"max_length": 5}, "6 tokens do not fit max_length=5"),
    ],
)
def test_impossible_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TransformerEncoder(**TINY | fields).init, jax.random.key(0), TOKENS, MASK)


def test_types_need_their_table():
    with pytest.raises(ValueError, match="without token_types"):
        jax.eval_shape(TransformerEncoder(**TINY).init, jax.random.key(0), TOKENS, MASK, TOKENS)


def test_without_layers_only_the_embeddings_are_left(randomise):
    encoder = TransformerEncoder(**TINY | {"layers": 0}, pooling="none")
    variables = randomise(encoder, TOKENS, MASK)
    assert set(variables["params"]) == {"embedding"}
    table = variables["params"]["embedding"]
    expected = table["token"]["embedding"][np.asarray(TOKENS)] + table["position"]
    np.testing.assert_allclose(apply(encoder, variables, TOKENS, MASK).tokens, expected, atol=1e-6)
    found = encoder.apply(variables, method="word_vectors")
    np.testing.assert_array_equal(found, table["token"]["embedding"])


def test_context_may_be_read_as_text(randomise):
    """Before the text, or in place of a token; both as if its vectors had been looked up."""
    rows = jax.random.normal(jax.random.key(1), (2, 2, 8))
    context = Features(rows, jnp.array([[True, True], [True, False]]))
    fields = TINY | dict(max_length=8, pooling="none", layers=1)
    before = TransformerEncoder(**fields, memory="prepend")
    tokens = TOKENS.at[:, 4].set(6)  # 8 will stand for the context
    variables = randomise(before, tokens, MASK, context=context)
    found = apply(before, variables, tokens, MASK, context=context)
    assert found.tokens.shape == (2, 8, 8)
    assert found.mask[:, :2].tolist() == context.mask.tolist()
    within = TransformerEncoder(**fields, memory="insert", image_token=8)
    marked = jnp.pad(tokens.at[1, 5].set(6), ((0, 0), (2, 0)), constant_values=8)
    real = jnp.concatenate([context.mask, MASK], axis=1)
    first = apply(before, variables, tokens.at[1, 5].set(6), MASK, context=context)
    again = apply(within, variables, marked, real, context=context)
    np.testing.assert_allclose(first.tokens[real], again.tokens[real], atol=1e-5)
    with pytest.raises(ValueError, match="image_token"):
        TransformerEncoder(**fields, memory="insert").init(jax.random.key(0), TOKENS, MASK)


def test_a_table_of_buckets_moves_attention(randomise):
    """T5's: positions matter through the learned biases alone."""
    fields = TINY | dict(positions="none", relative=dict(buckets=4), pooling="none", layers=1)
    encoder = TransformerEncoder(**fields)
    everything = jnp.ones_like(MASK)
    variables = randomise(encoder, TOKENS, everything)
    order = jnp.array([1, 0, 2, 3, 4, 5])

    def change(params):
        """What the order of the first two tokens changes."""
        run = lambda tokens: apply(encoder, {"params": params}, tokens, everything).tokens
        return jnp.abs(run(TOKENS[:, order])[:, order] - run(TOKENS)).max()

    assert change(variables["params"]) > 1e-4
    assert change(variables["params"] | {"relative": {"table": jnp.zeros((4, 2))}}) < 1e-5
