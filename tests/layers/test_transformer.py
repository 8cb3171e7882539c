"""The transformer stack against a NumPy loop, and the properties its options promise."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.masks import cache_mask, causal_mask, padding_mask
from vlm_jax.layers.transformer import Around, Block, Transformer

KEY = jax.random.key(0)
PARTS = {True: ("self", "cross", "mlp"), False: ("self", "mlp")}
ALONE = dict.fromkeys(("cache", "drop_path", "kind", "active"))
SMALL = {"layers": 2, "heads": 2, "mlp_width": 12}


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def apply(module, variables, *inputs, train=False, **named):
    """Module.apply, compiled as one program."""
    return jax.jit(partial(module.apply, train=train))(variables, *inputs, **named)


def reference(params, x, context, *, heads, norm_first, epsilon=1e-6):
    """NumPy in float64, layer by layer, with every key visible and GELU by math.erf."""
    params, x, context = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (params, x, context)
    )
    erf = np.vectorize(math.erf)

    def dense(p, y):
        return y @ p["kernel"] + p["bias"]

    def norm(p, y):
        centred = y - y.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * p["scale"]
            + p["bias"]
        )

    def attention(p, y, memory):
        q, k, v = dense(p["query"], y), dense(p["key"], memory), dense(p["value"], memory)
        out = []
        for n in range(heads):
            mine = np.s_[..., n * q.shape[-1] // heads : (n + 1) * q.shape[-1] // heads]
            weights = np.exp(q[mine] @ k[mine].swapaxes(1, 2) / math.sqrt(q.shape[-1] / heads))
            out.append(weights / weights.sum(-1, keepdims=True) @ v[mine])
        return dense(p["out"], np.concatenate(out, axis=-1))

    def mlp(p, y):
        hidden = dense(p["up"], y)
        return dense(p["down"], hidden * 0.5 * (1 + erf(hidden / math.sqrt(2))))

    layers = params["layers"]
    for layer in range(len(layers["mlp"]["up"]["bias"])):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], layers)
        parts = [("self", lambda y, p=p: attention(p["self_attention"], y, y))]
        if context is not None:
            parts += [("cross", lambda y, p=p: attention(p["cross_attention"], y, context))]
        parts += [("mlp", lambda y, p=p: mlp(p["mlp"], y))]
        for name, part in parts:
            scale = p[f"{name}_norm"]
            x = x + part(norm(scale, x)) if norm_first else norm(scale, x + part(x))
    return norm(params["final_norm"], x) if norm_first else x


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_stack_equals_a_loop_in_numpy(randomise, norm_first, cross):
    x, context = normal((2, 4, 8)), normal((2, 3, 6), seed=2) if cross else None
    stack = Transformer(**SMALL, norm_first=norm_first, final_norm=norm_first, parts=PARTS[cross])
    variables = randomise(stack, x, context=context)
    out, cache = apply(stack, variables, x, context=context)
    expected = reference(variables["params"], x, context, heads=2, norm_first=norm_first)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert cache is None


def test_scan_equals_a_loop_over_single_blocks(randomise):
    x, mask = normal((2, 4, 8)), causal_mask(4)
    stack = Transformer(
        **SMALL, final_norm=False, activation="quick_gelu", attention={"kv_heads": 1}
    )
    variables = randomise(stack, x)
    block = Block(heads=2, mlp_width=12, activation="quick_gelu", attention={"kv_heads": 1})
    run, y = jax.jit(block.apply, static_argnums=4), x
    for layer in range(2):
        params = jax.tree.map(lambda leaf, layer=layer: leaf[layer], variables["params"]["layers"])
        y, _ = run({"params": params}, y, ALONE, Around(mask), False)
    np.testing.assert_allclose(apply(stack, variables, x, mask=mask)[0], y, atol=1e-5)


def test_layers_start_different():
    params = jax.jit(Transformer(**SMALL).init)(KEY, normal((1, 2, 8)))["params"]
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (2, 8, 12)
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


def test_no_layers_is_the_identity_and_its_final_norm():
    x = normal((2, 4, 8))
    stack = Transformer(layers=0, heads=2, mlp_width=12, final_norm=False)
    np.testing.assert_array_equal(apply(stack, jax.jit(stack.init)(KEY, x), x)[0], x)


def test_remat_changes_no_value_and_no_gradient(randomise):
    x = normal((2, 4, 8))
    options = dict(**SMALL, drop_path=0.2)
    variables = randomise(Transformer(**options), x)

    def loss(variables, remat):
        stack = Transformer(**options, remat=remat)
        out, _ = apply(stack, variables, x, mask=causal_mask(4), train=True, rngs={"dropout": KEY})
        return jnp.sum(out**2)

    plain, plain_gradients = jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, False)
    value, gradients = jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, True)
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradients,
        plain_gradients,
    )


def test_remat_is_in_the_program():
    x = normal((1, 2, 8))
    for remat in (True, False):
        stack = Transformer(**SMALL, remat=remat)
        variables = jax.jit(stack.init)(KEY, x)
        program = str(jax.make_jaxpr(lambda v, s=stack: apply(s, v, x)[0])(variables))
        assert ("checkpoint" in program or "remat" in program) == remat


def test_a_changed_token_moves_nothing_before_it_under_a_causal_mask(randomise):
    x, stack = normal((1, 5, 8)), Transformer(**SMALL)
    variables = randomise(stack, x)
    run = lambda x: apply(stack, variables, x, mask=causal_mask(5))[0]
    change = jnp.abs(run(x.at[0, 3].multiply(-1.0)) - run(x)).max(axis=-1)[0]
    assert float(change[:3].max()) == 0
    assert float(change[3:].min()) > 1e-3


def test_masked_tokens_change_nothing(randomise):
    x, stack = normal((2, 5, 8)), Transformer(**SMALL)
    variables = randomise(stack, x)
    real = jnp.arange(5)[None] < jnp.array([[3], [5]])
    run = lambda x: apply(stack, variables, x, mask=padding_mask(real))[0]
    garbage = jnp.where(real[..., None], x, 1e3)
    np.testing.assert_array_equal(run(x)[0, :3], run(garbage)[0, :3])


def test_without_positions_a_permutation_of_tokens_permutes_the_output(randomise):
    x, stack = normal((1, 6, 8)), Transformer(**SMALL)
    variables, order = randomise(stack, x), jnp.array([3, 1, 5, 0, 2, 4])
    run = lambda x: apply(stack, variables, x)[0]
    np.testing.assert_allclose(run(x[:, order]), run(x)[:, order], atol=1e-5)


@pytest.mark.parametrize("cross", [True, False])
def test_decoding_through_a_cache_equals_the_full_forward(randomise, cross):
    x, context = normal((2, 5, 8)), normal((2, 3, 8), seed=2) if cross else None
    seen = jnp.array([[True, True, False], [True, True, True]])
    memory = {"context_mask": padding_mask(seen)} if cross else {}
    stack = Transformer(**SMALL, attention={"kv_heads": 1}, parts=PARTS[cross])
    variables = randomise(stack, x, context=context)
    full, _ = apply(stack, variables, x, mask=causal_mask(5), context=context, **memory)
    cache, outs = stack.empty_cache(8, batch=2, slots=7, memory_slots=3), []
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(cache)} == {(2, 2)}
    for start, stop in ((0, 3), (3, 4), (4, 5)):
        slots = jnp.full((2,), start)
        mask = cache_mask(slots, stop - start, jnp.ones((2, 7), bool), bidirectional=False)
        out, cache = apply(
            stack,
            variables,
            x[:, start:stop],
            mask=mask,
            context=None if start else context,
            cache=cache,
            slot=slots[0],
            **memory,
        )
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), full, atol=1e-5)


def test_dropout_needs_training_and_differs_by_key_and_layer(randomise):
    x, stack = normal((1, 4, 8)), Transformer(**SMALL, dropout=0.5)
    variables = randomise(stack, x)
    run = lambda key: apply(stack, variables, x, train=True, rngs={"dropout": key})[0]
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert float(jnp.abs(run(KEY) - run(jax.random.key(9))).max()) > 0.01
    np.testing.assert_array_equal(apply(stack, variables, x)[0], apply(stack, variables, x)[0])


def test_drop_path_drops_whole_branches_of_an_example_and_rescales_the_rest(randomise):
    x, block = normal((1, 3, 8)), Block(heads=2, mlp_width=12)
    stack = randomise(Transformer(layers=1, heads=2, mlp_width=12), x)["params"]["layers"]
    params = jax.tree.map(lambda leaf: leaf[0], stack)
    params["mlp"] = jax.tree.map(np.zeros_like, params["mlp"])  # only self-attention adds
    variables, run = {"params": params}, jax.jit(block.apply, static_argnums=4)
    whole, _ = run(variables, x, ALONE, Around(), False)
    many = jnp.broadcast_to(x, (2000, 3, 8))
    dropping = ALONE | {"drop_path": jnp.float32(0.25)}
    out, _ = run(variables, many, dropping, Around(), True, rngs={"dropout": KEY})
    added = out - many
    kept = jnp.abs(added).max(axis=(1, 2)) > 0
    np.testing.assert_allclose(jnp.mean(kept), 0.75, atol=0.03)
    expected = jnp.broadcast_to((whole - x) / 0.75, many.shape)
    np.testing.assert_allclose(added[kept], expected[kept], atol=1e-5)


def test_drop_path_grows_linearly_from_nothing_in_the_first_layer(randomise):
    x = jnp.broadcast_to(normal((1, 2, 8)), (64, 2, 8))
    one = Transformer(layers=1, heads=2, mlp_width=12, drop_path=0.9)
    variables = randomise(one, x)
    out, _ = apply(one, variables, x, train=True, rngs={"dropout": KEY})
    np.testing.assert_allclose(out, apply(one, variables, x)[0], atol=1e-5)
    two = Transformer(layers=2, heads=2, mlp_width=12, drop_path=0.9)
    out, _ = apply(two, randomise(two, x), x, train=True, rngs={"dropout": KEY})
    assert float(jnp.abs(out - out[:1]).max()) > 0.01


def test_bfloat16_compute_keeps_float32_parameters(randomise):
    x, stack = normal((2, 4, 8)), Transformer(**SMALL, dtype=jnp.bfloat16, dropout=0.1)
    variables = jax.jit(stack.init)(KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out, _ = apply(stack, variables, x)
    assert out.dtype == jnp.bfloat16
    exact, _ = apply(Transformer(**SMALL), variables, x)
    np.testing.assert_allclose(out, exact, atol=0.1)


def test_unknown_norm_is_explained():
    with pytest.raises(ValueError, match=r"unknown norm 'batch'.*layer"):
        Transformer(**SMALL, norm="batch").init(KEY, normal((1, 2, 8)))
