"""ResNet against naive NumPy convolutions, its batch statistics, and its token order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.resnet import MeanQueryPooling, ResNet

TINY = {"stages": (1, 1), "width": 4, "stem": "small"}


def images(batch=2, size=8, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, size, size, 3)), jnp.float32)


def apply(module, variables, *inputs, **options):
    """Module.apply, compiled as one program; options are static."""
    return jax.jit(partial(module.apply, **options))(variables, *inputs)


def convolve(x, kernel, stride):
    """[B, H, W, C] * [k, k, C, D], padded by k // 2 on every side, one output pixel at a time."""
    size, half = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = ((n + 2 * half - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for h, w in np.ndindex(height, width):
        window = padded[:, h * stride : h * stride + size, w * stride : w * stride + size]
        out[:, h, w] = np.einsum("bijc,ijcd->bd", window, kernel)
    return out


def max_pool(x):
    """3 x 3 windows with stride 2; the border of one pixel never wins."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = ((n - 1) // 2 + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, x.shape[-1]))
    for h, w in np.ndindex(height, width):
        out[:, h, w] = padded[:, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3].max(axis=(1, 2))
    return out


def reference(variables, x, stem, bottleneck, stages):
    """The network with running statistics, in NumPy and float64."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params, statistics = variables["params"], variables["batch_stats"]
    relu = lambda y: np.maximum(y, 0)

    def norm(p, s, y):
        return (y - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    x = convolve(
        np.asarray(x, np.float64), params["stem_conv"]["kernel"], 2 if stem == "imagenet" else 1
    )
    x = relu(norm(params["stem_norm"], statistics["stem_norm"], x))
    x = max_pool(x) if stem == "imagenet" else x
    for stage in range(1, stages + 1):
        p, s = params[f"stage{stage}_block1"], statistics[f"stage{stage}_block1"]
        strides = (1, min(stage, 2), 1) if bottleneck else (min(stage, 2), 1)
        y = x
        for layer, stride in enumerate(strides, start=1):
            y = norm(
                p[f"norm{layer}"],
                s[f"norm{layer}"],
                convolve(y, p[f"conv{layer}"]["kernel"], stride),
            )
            y = y if layer == len(strides) else relu(y)
        if "shortcut_conv" in p:
            x = convolve(x, p["shortcut_conv"]["kernel"], min(stage, 2))
            x = norm(p["shortcut_norm"], s["shortcut_norm"], x)
        x = relu(x + y)
    return x


@pytest.mark.parametrize(
    ("stem", "depth", "size"), [("small", 18, 7), ("small", 50, 6), ("imagenet", 18, 15)]
)
def test_resnet_equals_numpy(randomise, stem, depth, size):
    network, x = ResNet(depth, stages=(1, 1), width=4, stem=stem), images(size=size)
    variables = randomise(network, x)
    features = apply(network, variables, x)
    expected = reference(variables, x, stem, depth == 50, 2)
    tokens = expected.reshape(2, -1, expected.shape[-1])  # row by row
    np.testing.assert_allclose(features.tokens, tokens, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(features.pooled, tokens.mean(axis=1), atol=1e-4, rtol=1e-4)
    assert bool(features.mask.all())
    assert features.mask.shape == features.tokens.shape[:2]


def test_frozen_statistics_are_used_in_training_and_do_not_change(randomise):
    network, x = ResNet(18, **TINY), images()
    variables = randomise(network, x)
    evaluated = apply(network, variables, x)
    trained, updated = apply(network, variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(trained.tokens, evaluated.tokens)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    apply(network, variables, x, train=True)  # needs no mutable collection


def test_free_statistics_move_a_tenth_of_the_way_to_those_of_the_batch(randomise):
    network, x = ResNet(18, **TINY, frozen_statistics=False), images()
    variables = randomise(network, x)
    _, updated = apply(network, variables, x, train=True, mutable=["batch_stats"])
    before, after = (v["batch_stats"]["stem_norm"] for v in (variables, updated))
    y = convolve(np.asarray(x), variables["params"]["stem_conv"]["kernel"], 1)
    np.testing.assert_allclose(
        after["mean"], 0.9 * before["mean"] + 0.1 * y.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        after["var"], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2)), atol=1e-5
    )
    with pytest.raises(Exception, match="batch_stats"):
        apply(network, variables, x, train=True)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_image_does_not_depend_on_its_neighbours(randomise, norm):
    network, x = ResNet(18, **TINY, norm=norm, groups=2), images(3)
    variables = randomise(network, x)
    assert ("batch_stats" in variables) == (norm == "batch")
    together, alone = apply(network, variables, x), apply(network, variables, x[1:2])
    np.testing.assert_allclose(together.tokens[1:2], alone.tokens, atol=1e-5)


def test_a_new_residual_branch_adds_nothing():
    network, x = ResNet(18, stages=(2,), width=4, stem="small"), images()
    variables = jax.jit(network.init)(jax.random.key(0), x)
    shallow = ResNet(18, stages=(1,), width=4, stem="small")
    out = apply(network, variables, x).tokens
    np.testing.assert_allclose(out, apply(shallow, variables, x).tokens, atol=1e-6)
    assert float(jnp.abs(out).max()) > 0.1


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("small", 8)])
def test_stems_decide_the_number_of_tokens(stem, side):
    shapes = jax.eval_shape(
        lambda x: ResNet(18, width=4, stem=stem).init_with_output(jax.random.key(0), x)[0],
        images(1, 64),
    )
    assert shapes.tokens.shape == (1, side * side, 32)


def test_masked_tokens_are_left_out_of_pooled(randomise):
    network, x = ResNet(18, **TINY), images()
    variables, mask = randomise(network, x), jnp.arange(16)[None] < jnp.array([[16], [3]])
    features = apply(network, variables, x, mask)
    np.testing.assert_allclose(features.pooled[1], features.tokens[1, :3].mean(axis=0), atol=1e-5)
    with pytest.raises(ValueError, match=r"makes 16 tokens .* pass a mask of shape \(2, 16\)"):
        apply(network, variables, x, mask[:, :5])


def test_classes_turn_pooled_into_scores(randomise):
    network, x = ResNet(18, **TINY, classes=5), images()
    features = apply(network, randomise(network, x), x)
    assert features.pooled.shape == (2, 5)
    assert features.tokens.shape == (2, 16, 8)


def test_bfloat16_compute_keeps_float32_variables(randomise):
    network, x = ResNet(18, **TINY, dtype=jnp.bfloat16), images()
    variables = randomise(network, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    features = apply(network, variables, x)
    assert features.tokens.dtype == features.pooled.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 20}, "depth"),
        ({"stem": "patch"}, "stem='patch'"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"norm": "group", "width": 24}, "set groups=8"),
    ],
)
def test_impossible_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ResNet(**fields).init, jax.random.key(0), images(1, 32))


def test_stages_may_have_any_width_and_stride(randomise):
    x = images(2, 64)
    fields = dict(bottleneck=True, stages=(1, 2), widths=(8, 20), stem_width=5, first_stride=2)
    network = ResNet(**fields, activation="gelu")
    variables = randomise(network, x)
    params = variables["params"]
    assert params["stage1_block1"]["conv1"]["kernel"].shape == (1, 1, 5, 2)
    assert params["stage2_block2"]["conv3"]["kernel"].shape == (1, 1, 5, 20)
    assert "shortcut_conv" not in params["stage2_block2"]
    features = apply(network, variables, x)
    assert features.tokens.shape == (2, 16, 20)
    assert float(features.tokens.min()) < 0  # the ends of blocks are no ReLUs here


def test_averaged_strides_see_every_pixel(randomise):
    """A pixel that strided 1 x 1 shortcuts would skip; all weights positive: nothing cancels."""
    x = jnp.ones((1, 16, 16, 3))
    fields = dict(bottleneck=True, stages=(1, 1), width=4, stem="small", frozen_statistics=True)
    for averaged in (True, False):
        network = ResNet(**fields, averaged=averaged)
        variables = jax.tree.map(np.abs, randomise(network, x, scale=0.1))
        shortcut = {"shortcut_conv", "shortcut_norm"}
        block = variables["params"]["stage2_block1"]
        silent = {n: jax.tree.map(np.zeros_like, p) for n, p in block.items() if n not in shortcut}
        variables["params"]["stage2_block1"] = block | silent
        variables["params"]["stem_conv"]["kernel"][
            [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]
        ] = 0
        first = variables["params"]["stage1_block1"]
        own = {n: jax.tree.map(np.zeros_like, p) for n, p in first.items() if n not in shortcut}
        variables["params"]["stage1_block1"] = first | own
        changed = x.at[0, 5, 7].add(1.0)
        difference = apply(network, variables, changed).tokens - apply(network, variables, x).tokens
        assert bool(jnp.any(jnp.abs(difference) > 1e-6)) == averaged


def test_the_mean_attends_to_the_map(randomise):
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    pool = MeanQueryPooling(side=3, heads=2, width=5)
    variables = randomise(pool, x)
    params = variables["params"]
    flat = np.asarray(x).reshape(2, 9, 8)
    y = np.concatenate([flat.mean(axis=1, keepdims=True), flat], axis=1) + params["position"]
    dense = lambda name, z: (
        z @ params["attention"][name]["kernel"] + params["attention"][name]["bias"]
    )
    q, k, v = (
        dense(n, z).reshape(2, -1, 2, 4) for n, z in (("query", y[:, :1]), ("key", y), ("value", y))
    )
    scores = np.einsum("btnk,bsnk->bnts", q, k) / 2
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    seen = np.einsum("bnts,bsnk->btnk", weights, v).reshape(2, 8)
    np.testing.assert_allclose(apply(pool, variables, x), dense("out", seen), atol=1e-5)
    assert apply(pool, variables, x[:, :2]).shape == (2, 5)
