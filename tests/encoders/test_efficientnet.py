import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import trees
from vlm_jax.encoders.efficientnet import MULTIPLIERS, Depthwise, EfficientNet, channels_of

TINY = dict(stages=(1, 1, 1), stem=8, head=12, width=0.25)


@pytest.mark.parametrize(
    ("number", "count"),
    [(0, 4_652_008), (4, 13_006_568)],
)
def test_the_published_networks_have_the_published_sizes(number, count):
    width, depth = MULTIPLIERS[number]
    network = EfficientNet(width, depth, classes=1000)
    image = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    assert trees.count_parameters(params) == count


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 2), (1, 1)])
def test_both_forms_of_the_depthwise_convolution_agree(kernel, stride, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 5))
    make = lambda shifted: Depthwise(kernel, stride, shifted)
    params = make(True).init(jax.random.key(1), x)
    found, gradient = jax.value_and_grad(lambda p: jnp.sum(make(True).apply(p, x) ** 2))(params)
    plain, expected = jax.value_and_grad(lambda p: jnp.sum(make(False).apply(p, x) ** 2))(params)
    shifted, grouped = make(True).apply(params, x), make(False).apply(params, x)
    np.testing.assert_allclose(shifted, grouped, atol=1e-5)
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    scale = float(jnp.abs(expected["params"]["kernel"]).max())
    kernels = (tree["params"]["kernel"] / scale for tree in (gradient, expected))
    np.testing.assert_allclose(*kernels, atol=1e-5)


def test_channels_are_multiples_of_eight_and_not_much_fewer():
    assert [channels_of(c, 1.1) for c in (16, 24, 40, 320)] == [16, 24, 48, 352]
    assert channels_of(10, 1.0) == 16 and channels_of(4, 1.0) == 8


def test_tokens_are_the_map_and_pooled_its_mean_or_the_scores():
    image = jax.random.normal(jax.random.key(0), (2, 40, 24, 3))
    network = EfficientNet(**TINY)
    variables = network.init(jax.random.key(1), image)
    found = network.apply(variables, image)
    assert found.tokens.shape == (2, 5 * 3, 12)
    np.testing.assert_allclose(found.pooled, found.tokens.mean(1), atol=1e-6)
    scored = EfficientNet(**TINY, classes=4)
    assert scored.apply(scored.init(jax.random.key(1), image), image).pooled.shape == (2, 4)


def test_statistics_stay_or_move_as_asked():
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    for frozen in (True, False):
        network = EfficientNet(**TINY, frozen_statistics=frozen)
        variables = network.init(jax.random.key(1), image)
        changes = dict(train=True, mutable=["batch_stats"])
        _, after = network.apply(variables, image, **changes)
        before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, after))
        same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert same == frozen


def test_too_many_stages():
    with pytest.raises(ValueError, match="has 7 stages"):
        EfficientNet(stages=(1,) * 8).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
