"""The merge captioner against Keras 3 on its JAX backend."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.weights import parity
from vlm_jax.losses import masked_cross_entropy
from vlm_jax.weights import convert
from vlm_jax.weights.families.lstm_merge import rules
from vlm_jax.weights.folder import Arrays
from vlm_jax.weights.pretrained import count, from_tensors, write_folder

CONFIG = dict(model_type="lstm_merge")
LENGTH = 6


def network(vocab: int, features: int, width: int):
    layers = keras.layers
    keras.backend.clear_session()
    image, words = layers.Input((features,)), layers.Input((LENGTH,))
    seen = layers.Dense(width, activation="relu")(layers.Dropout(0.5)(image))
    read = layers.Embedding(vocab, width, mask_zero=True)(words)
    read = layers.LSTM(width)(layers.Dropout(0.5)(read))
    merged = layers.Dense(width, activation="relu")(layers.add([seen, read]))
    return keras.Model([image, words], layers.Dense(vocab, activation="softmax")(merged))


def arrays_of(model, seed: int = 0) -> Arrays:
    """Random weights by the names that Keras gives them, biases included."""
    rng = np.random.default_rng(seed)
    found = Arrays()
    for variable in model.weights:
        noise = rng.normal(size=variable.shape) * (0.5 if len(variable.shape) == 1 else 0.3)
        found[variable.path] = noise.astype(np.float32)
        variable.assign(found[variable.path])
    return found


def prefixes(tokens: np.ndarray) -> np.ndarray:
    """Every prefix of every text, padded on the left, [B * T, LENGTH]."""
    padded = np.pad(tokens, ((0, 0), (LENGTH, 0)))
    ends = range(1, tokens.shape[1] + 1)
    return np.concatenate([padded[:, end : end + LENGTH] for end in ends])


@pytest.mark.parametrize(("vocab", "features", "width"), [(11, 5, 4), (30, 7, 9)])
def test_merge_captioner(vocab, features, width, tmp_path):
    with jax.numpy_rank_promotion("allow"):
        reference = network(vocab, features, width)
        arrays = arrays_of(reference)
    loaded = from_tensors(CONFIG, arrays)
    tokens = parity.tokens(3, LENGTH, vocab)
    inputs = dict(features=jnp.asarray(parity.pixels(3, features)), input_ids=jnp.asarray(tokens))
    weights = np.random.default_rng(2).normal(size=(3, LENGTH, vocab)).astype(np.float32)
    labels = jnp.asarray(parity.tokens(3, LENGTH, vocab, seed=3))

    def logits_of(params):
        apply = lambda *args, **given: loaded.model.apply({"params": params}, *args, **given)
        return loaded.family.calls["forward"](apply, inputs, {})["logits"]

    def chances_of(variables):
        given = [np.tile(inputs["features"], (LENGTH, 1)), prefixes(tokens)]
        chances, _ = reference.stateless_call(variables, states, given, training=False)
        return chances.reshape(LENGTH, 3, vocab).transpose(1, 0, 2)

    def compare(ours, theirs):
        """Values, and gradients for every parameter."""
        value, gradients = jax.value_and_grad(lambda given: ours(logits_of(given)))(params)
        with jax.numpy_rank_promotion("allow"):
            whole = jax.value_and_grad(lambda given: theirs(chances_of(given)))
            expected, reverse = whole(variables)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        written = dict(convert.write({"params": gradients}, rules(CONFIG)))
        for variable, gradient in zip(reference.trainable_variables, reverse, strict=True):
            np.testing.assert_allclose(written[variable.path], gradient, atol=1e-5)

    params = loaded.variables["params"]
    states = [variable.value for variable in reference.non_trainable_variables]
    variables = [jnp.asarray(arrays[v.path]) for v in reference.trainable_variables]
    with jax.numpy_rank_promotion("allow"):
        expected = chances_of(variables)
    np.testing.assert_allclose(jax.nn.softmax(logits_of(params)), expected, atol=1e-6)
    compare(
        lambda logits: jnp.sum(jax.nn.softmax(logits) * weights),
        lambda chances: jnp.sum(chances * weights),
    )
    compare(
        lambda logits: jnp.mean(masked_cross_entropy(logits, labels, jnp.ones_like(labels, bool))),
        lambda chances: jnp.mean(keras.losses.sparse_categorical_crossentropy(labels, chances)),
    )
    write_folder(loaded, tmp_path / "out")
    again = parity.read_folder(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)
    with jax.numpy_rank_promotion("allow"):
        fresh = reloaded(network(vocab, features, width), tmp_path / "out")
        chances = fresh([np.tile(inputs["features"], (LENGTH, 1)), prefixes(tokens)])
        np.testing.assert_array_equal(chances, reference_chances(expected))
        written = greedy(fresh, inputs["features"], start=1, end=2)
    flags = dict(max_new_tokens=LENGTH - 1, eos_token_id=2, pad_token_id=0)
    start = dict(features=inputs["features"], input_ids=np.full((3, 1), 1))
    np.testing.assert_array_equal(again.call("generate", start, flags)["tokens"], written)


def reference_chances(chances) -> np.ndarray:
    """[B, T, V] in the order of `prefixes`."""
    return np.asarray(chances).transpose(1, 0, 2).reshape(-1, chances.shape[-1])


def reloaded(model, folder):
    """A Keras model, made anew, with the tensors of an exported folder by their names."""
    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == {variable.path for variable in model.weights}
    for variable in model.weights:
        variable.assign(tensors[variable.path])
    return model


def greedy(model, features, start: int, end: int) -> np.ndarray:
    """The likeliest word after word, by Keras alone; 0 after the end."""
    words = np.full((len(features), 1), start)
    for _ in range(LENGTH - 1):
        padded = np.pad(words, ((0, 0), (LENGTH - words.shape[1], 0)))
        following = np.argmax(model([np.asarray(features), padded]), axis=-1)
        ended = np.any(words == end, axis=1)
        words = np.concatenate([words, np.where(ended, 0, following)[:, None]], axis=1)
    return words


def test_count():
    assert count(CONFIG) == 5_527_963
