"""The bag of words: a mean of embeddings."""

import jax.numpy as jnp
import numpy as np

from vlm_jax.encoders.text_bag import BagOfWords

TOKENS = jnp.array([[3, 1, 4, 0], [1, 1, 2, 2], [0, 0, 0, 0]])
MASK = jnp.array([[True, True, True, False], [True, True, True, True], [False] * 4])


def test_pooled_is_the_mean_of_the_real_embeddings(randomise):
    encoder = BagOfWords(vocab=5, width=4)
    variables = randomise(encoder, TOKENS, MASK)
    table = variables["params"]["embedding"]["embedding"]
    features = encoder.apply(variables, TOKENS, MASK)
    expected = [table[[3, 1, 4]].mean(0), table[[1, 1, 2, 2]].mean(0), np.zeros(4)]
    np.testing.assert_allclose(features.pooled, expected, atol=1e-6)
    np.testing.assert_array_equal(features.tokens, table[np.asarray(TOKENS)])
    np.testing.assert_array_equal(features.mask, MASK)


def test_order_and_padding_change_nothing(randomise):
    encoder = BagOfWords(vocab=5, width=4)
    variables = randomise(encoder, TOKENS, MASK)
    pooled = encoder.apply(variables, TOKENS, MASK).pooled
    reversed_pooled = encoder.apply(variables, TOKENS[:, ::-1], MASK[:, ::-1]).pooled
    np.testing.assert_allclose(reversed_pooled, pooled, atol=1e-6)
    shorter = encoder.apply(variables, TOKENS[:1, :3], MASK[:1, :3]).pooled
    np.testing.assert_allclose(shorter, pooled[:1], atol=1e-6)
