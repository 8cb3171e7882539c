"""The Diffusion Transformer: published sizes, a NumPy implementation, how it starts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import trees
from vlm_jax.layers.embed import sincos_2d
from vlm_jax.models.dit import WAVES, DiT
from vlm_jax.types import Features

KEY = jax.random.key(0)
SMALL = dict(size=4, channels=2, patch=2, width=8, layers=2, heads=2, mlp_width=12)
CROSS = ("self", "cross", "mlp")
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(3, 4, 4, 2)), jnp.float32)
TIME = jnp.array([0.0, 0.3, 1.0])
REAL = np.array([[True] * 5, [True, True, False, False, True], [True] + [False] * 4])
MEMORY = Features(
    jnp.asarray(RNG.normal(size=(3, 5, 6)), jnp.float32),
    jnp.asarray(REAL),
    jnp.asarray(RNG.normal(size=(3, 8)), jnp.float32),
)


@functools.lru_cache
def network(parts=CROSS, learned_sigma=True):
    """A tiny network with every parameter randomised, compiled."""
    model, rng = DiT(**SMALL, parts=parts, learned_sigma=learned_sigma), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, KEY, X, TIME, MEMORY)
    draw = lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32)
    return jax.jit(model.apply), jax.tree.map(draw, shapes)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def plain_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def attention(p, x, memory, real):
    """One example, two heads of four."""
    q, k, v = dense(p["query"], x), dense(p["key"], memory), dense(p["value"], memory)
    out = []
    for head in (np.s_[:, :4], np.s_[:, 4:]):
        weights = np.exp(q[head] @ k[head].T / 2.0) * real
        out.append(weights / weights.sum(-1, keepdims=True) @ v[head])
    return dense(p["out"], np.concatenate(out, axis=-1))


def block(p, x, condition, memory, real):
    """Equation by equation of figure 3 (right), with cross-attention as one more part."""
    vectors = iter(np.split(dense(p["modulation"]["dense"], silu(condition)), 9))
    everywhere = np.ones(len(x), bool)
    for part in (
        lambda y: attention(p["self_attention"], y, y, everywhere),
        lambda y: attention(p["cross_attention"], y, memory, real),
        lambda y: dense(p["mlp"]["down"], gelu_tanh(dense(p["mlp"]["up"], y))),
    ):
        shift, scale, gate = (next(vectors) for _ in range(3))
        x = x + gate * part(plain_norm(x) * (1 + scale) + shift)
    return x


def reference(params, image, time, memory, real, pooled):
    """One example in float64."""
    patches = image.reshape(2, 2, 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(4, 8)
    table = np.asarray(sincos_2d(2, 2, 8), np.float64)
    x = dense(params["patch_embedding"], patches) + table
    angles = 1000.0 * time / 10_000 ** (np.arange(WAVES // 2) / (WAVES // 2))
    waves = np.concatenate([np.sin(angles), np.cos(angles)])
    condition = dense(params["time_down"], silu(dense(params["time_up"], waves))) + pooled
    for layer in range(2):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["transformer"]["layers"])
        x = block(own, x, condition, memory, real)
    shift, scale = np.split(dense(params["modulation"]["dense"], silu(condition)), 2)
    out = dense(params["out"], plain_norm(x) * (1 + scale) + shift)
    return out.reshape(2, 2, 2, 2, 4).transpose(0, 2, 1, 3, 4).reshape(4, 4, 4)[..., :2]


def test_equals_numpy_with_every_parameter_random():
    apply, variables = network()
    wide = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    params, rows = (
        wide(variables["params"]),
        zip(X, TIME, *map(np.asarray, MEMORY[:3]), strict=True),
    )
    clear = lambda tokens, real: np.where(real[:, None], tokens, 0)
    expected = np.stack(
        [
            reference(params, *wide((x, t)), wide(clear(tokens, real)), real, wide(pooled))
            for x, t, tokens, real, pooled in rows
        ]
    )
    found = apply(variables, X, TIME, MEMORY)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def parts_of_the_count(width, layers, classes=1000):
    """What the paper's network consists of (section 3.2, figure 3): patches of 2 x 2 x 4 in, 2 x 2
    times 4 values and 4 variances out, 256 waves of time, a vector per class and one for none.
    """
    dense = lambda inputs, outputs: inputs * outputs + outputs
    block = 4 * dense(width, width) + dense(width, 4 * width) + dense(4 * width, width)
    block += dense(width, 6 * width)  # shift, scale and gate of two parts; norms have no parameters
    ends = dense(16, width) + dense(width, 2 * width) + dense(width, 32)
    return layers * block + ends + dense(256, width) + dense(width, width) + (classes + 1) * width


SIZES = {  # width, layers, heads; all parameters; of those 16 * 16 fixed positions
    "S": (384, 12, 6, 32_963_360),
    "B": (768, 12, 12, 130_512_416),
    "L": (1024, 24, 16, 458_102_816),
    "XL": (1152, 28, 16, 675_129_632),
}


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_of_the_paper_have_the_published_number_of_parameters(size):
    width, layers, heads, count = SIZES[size]
    fields = dict(width=width, layers=layers, heads=heads, mlp_width=4 * width)
    model = DiT(**fields, learned_sigma=True)
    x, pooled = jnp.zeros((1, 32, 32, 4)), jnp.zeros((1, width))
    memory = Features(pooled[:, None], jnp.ones((1, 1), bool), pooled)
    params = jax.eval_shape(model.init, KEY, x, jnp.zeros(1), memory)["params"]
    found = trees.count_parameters(params) + 1001 * width  # the model around it has the classes
    assert found == parts_of_the_count(width, layers) == count - 256 * width
    assert size != "XL" or found == 674_834_720


def test_starts_as_nothing():
    model = DiT(**SMALL, parts=CROSS)
    variables = jax.jit(model.init)(KEY, X, TIME, MEMORY)
    assert not np.any(jax.jit(model.apply)(variables, X, TIME, MEMORY))


def test_what_is_masked_changes_nothing_and_the_rest_does():
    apply, variables = network()
    run = lambda tokens: apply(variables, X, TIME, MEMORY._replace(tokens=tokens))
    noise = jnp.where(MEMORY.mask[..., None], MEMORY.tokens, jnp.nan)
    np.testing.assert_array_equal(run(noise), run(MEMORY.tokens))
    change = jnp.abs(run(MEMORY.tokens.at[1, 4].add(1.0)) - run(MEMORY.tokens))
    assert float(change[1].max()) > 1e-3 and float(change[np.array([0, 2])].max()) == 0


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match="config.model.network"):
        DiT(**SMALL).init(KEY, jnp.zeros((3, 8, 8, 2)), TIME, MEMORY)
    with pytest.raises(ValueError, match="patches of 3"):
        DiT(**(SMALL | dict(patch=3))).init(KEY, X, TIME, MEMORY)
