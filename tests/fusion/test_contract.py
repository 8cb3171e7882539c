"""What every fusion owes its callers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.fusion import FUSIONS
from vlm_jax.types import Features

S, T, WIDTH = 5, 4, 16
FIELDS = {
    "concat": {"width": WIDTH},
    "attention": {"heads": 4, "layers": 2, "mlp_width": 8},
    "coattention": {"width": WIDTH, "heads": 4, "layers": 2, "mlp_width": 8},
    "cross_modal": {"width": WIDTH, "heads": 4, "layers": 2, "mlp_width": 8},
    "qformer": {"width": WIDTH, "heads": 4, "layers": 2, "mlp_width": 8}
    | {"queries": 3, "reads_text": True},
}


def inputs(seed: int = 0) -> tuple[Features, Features]:
    """Two rows with padding in both modalities (text on the left in row 1), no pooled vectors."""
    keys = jax.random.split(jax.random.key(seed))
    visual = Features(
        jax.random.normal(keys[0], (2, S, 8)), jnp.arange(S)[None] < jnp.array([[3], [5]])
    )
    text_mask = jnp.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)
    return visual, Features(jax.random.normal(keys[1], (2, T, WIDTH)), text_mask)


@functools.cache
def build(name: str, **fields):
    """A fusion with every parameter randomised, as a function of its two inputs."""
    fusion = FUSIONS[name](**(FIELDS[name] | fields))
    shapes = jax.eval_shape(fusion.init, jax.random.key(1), *inputs())
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.3, shapes)
    return jax.jit(lambda visual, textual: fusion.apply(variables, visual, textual))


def test_every_fusion_is_tested():
    assert set(FIELDS) == set(FUSIONS)


@pytest.mark.parametrize("name", FUSIONS)
def test_last_tokens_are_the_texts_and_pooled_is_set(name):
    visual, textual = inputs()
    fused = build(name)(visual, textual)
    assert fused.tokens.shape[::2] == (2, WIDTH)
    assert fused.pooled.shape == (2, WIDTH)
    assert fused.mask.shape == fused.tokens.shape[:2]
    np.testing.assert_array_equal(fused.mask[:, -T:], textual.mask)
    before = fused.mask[:, :-T]
    np.testing.assert_array_equal(before, visual.mask[:, : before.shape[1]])


@pytest.mark.parametrize("name", FUSIONS)
def test_text_permutation_moves_only_the_last_tokens(name):
    """Which output token belongs to which text token: swapping two of them swaps two outputs."""
    visual, textual = inputs()
    swap = jnp.array([1, 0, 2, 3])
    textual = textual._replace(mask=jnp.ones_like(textual.mask))
    swapped = textual._replace(tokens=textual.tokens[:, swap])
    pooling = {"pooling": "mean"} if name == "cross_modal" else {}
    fuse = build(name, **pooling)
    a, b = fuse(visual, textual), fuse(visual, swapped)
    np.testing.assert_allclose(a.tokens[:, -T:][:, swap], b.tokens[:, -T:], atol=1e-5)
    np.testing.assert_allclose(a.tokens[:, :-T], b.tokens[:, :-T], atol=1e-5)
    np.testing.assert_allclose(a.pooled, b.pooled, atol=1e-5)
    assert jnp.abs(a.tokens[:, -T] - b.tokens[:, -T]).max() > 1e-3


@pytest.mark.parametrize("name", FUSIONS)
def test_padding_is_ignored_in_both_modalities(name):
    visual, textual = inputs()
    fuse = build(name)
    expected = fuse(visual, textual)
    dirty = [
        x._replace(tokens=jnp.where(x.mask[..., None], x.tokens, 1e3)) for x in (visual, textual)
    ]
    got = fuse(*dirty)
    real = expected.mask[..., None]
    np.testing.assert_allclose(
        jnp.where(real, got.tokens, 0), jnp.where(real, expected.tokens, 0), atol=1e-5
    )
    np.testing.assert_allclose(got.pooled, expected.pooled, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "coattention", "cross_modal", "qformer"])
def test_text_tokens_depend_on_the_image(name):
    visual, textual = inputs()
    fuse = build(name)
    other = visual._replace(tokens=visual.tokens.at[:, 1].add(1.0))
    change = jnp.abs(fuse(visual, textual).tokens - fuse(other, textual).tokens)[:, -T:]
    assert jnp.all(jnp.max(change, axis=-1)[textual.mask] > 1e-4)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_row_without_image_tokens_is_finite_and_ignores_what_is_masked(name):
    visual, textual = inputs()
    visual = visual._replace(mask=visual.mask.at[0].set(False))
    fuse = build(name)
    a = fuse(visual, textual)
    b = fuse(visual._replace(tokens=visual.tokens.at[0].set(7.0)), textual)
    assert jnp.all(jnp.isfinite(a.tokens))
    assert jnp.all(jnp.isfinite(a.pooled))
    np.testing.assert_allclose(a.tokens[:, -T:], b.tokens[:, -T:], atol=1e-5)
    np.testing.assert_allclose(a.pooled, b.pooled, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_rows_do_not_depend_on_their_neighbours(name):
    visual, textual = inputs()
    fuse = build(name)
    together = fuse(visual, textual)
    alone = fuse(*jax.tree.map(lambda x: x[1:], (visual, textual)))
    np.testing.assert_allclose(together.tokens[1:], alone.tokens, atol=1e-5)
    np.testing.assert_allclose(together.pooled[1:], alone.pooled, atol=1e-5)


@pytest.mark.parametrize("product", [False, True])
def test_concat_projects_the_summaries(product):
    """By hand: relu(W [visual pooled; mean of real text tokens; perhaps a product of both] + b)."""
    visual, textual = inputs()
    visual = visual._replace(pooled=jnp.arange(16.0).reshape(2, 8) / 16)
    fusion = FUSIONS["concat"](width=3, product=product)
    variables = fusion.init(jax.random.key(0), visual, textual)
    variables = jax.tree.map(lambda x: x + 0.1, variables)  # biases are 0 at first
    mean = [np.asarray(textual.tokens)[0, :3].mean(0), np.asarray(textual.tokens)[1, 2:].mean(0)]
    summaries = [np.asarray(visual.pooled), np.stack(mean)]
    if product:
        dense = jax.tree.map(np.asarray, [variables["params"][name] for name in ("seen", "asked")])
        pairs = zip(summaries, dense, strict=True)
        seen, asked = (x @ d["kernel"] + d["bias"] for x, d in pairs)
        summaries.append(seen * asked)
    both, dense = np.concatenate(summaries, axis=1), variables["params"]["pooled"]
    expected = np.maximum(both @ dense["kernel"] + dense["bias"][None], 0)
    np.testing.assert_allclose(fusion.apply(variables, visual, textual).pooled, expected, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_cross_modal_pools_the_first_real_text_token_or_a_class_token(norm_first):
    visual, textual = inputs()
    first = build("cross_modal", norm_first=norm_first)
    moved = textual._replace(
        tokens=jnp.roll(textual.tokens, -2, axis=1), mask=jnp.roll(textual.mask, -2, axis=1)
    )
    a, b = first(visual, textual), first(visual, moved)  # row 1: left padding becomes right padding
    np.testing.assert_allclose(a.pooled[1], b.pooled[1], atol=1e-5)
    classed = build("cross_modal", pooling="class", norm_first=norm_first)(visual, textual)
    assert classed.tokens.shape == (2, S + T, WIDTH)


def test_errors_name_the_field():
    with pytest.raises(ValueError, match="pooling='last'"):
        build("cross_modal", pooling="last")
    with pytest.raises(ValueError, match="heads=3"):
        build("attention", heads=3)
    with pytest.raises(ValueError, match="layers=0"):
        build("attention", layers=0)


def test_a_shared_cross_attention_serves_both_streams():
    """LXMERT's: swapping the streams swaps what cross-attention makes of them."""
    visual, textual = inputs()
    visual = visual._replace(tokens=jnp.tile(visual.tokens, 2))  # width 16, as the text
    fusion = FUSIONS["coattention"](
        width=WIDTH, layers=1, mlp_width=8, shared=True, projections=False, pooling="first"
    )
    shapes = jax.eval_shape(fusion.init, jax.random.key(1), visual, textual)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.3, shapes)
    layers = params["params"]["layers"]
    assert set(layers) == {"cross", "visual", "textual"}
    layers["textual"] = layers["visual"]
    fuse = jax.jit(lambda a, b: fusion.apply(params, a, b))
    a, b = fuse(visual, textual), fuse(textual, visual)
    np.testing.assert_allclose(a.tokens[:, -T:], b.tokens[:, :T], atol=1e-5)
    np.testing.assert_allclose(a.tokens[:, :S], b.tokens[:, -S:], atol=1e-5)
    dense = params["params"]["pooled"]
    pooled = np.tanh(np.asarray(a.tokens)[:, -T] @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(a.pooled, pooled, atol=1e-5)
    with pytest.raises(ValueError, match="pooling='last'"):
        build("coattention", pooling="last")


def test_cross_modal_answers_at_the_word_before_the_last():
    visual, textual = inputs()
    textual = textual._replace(mask=jnp.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool))
    fused = build("cross_modal", pooling="before_last", segments=3)(visual, textual)
    expected = fused.tokens[jnp.arange(2), S + jnp.array([1, 2])]
    np.testing.assert_array_equal(fused.pooled, expected)


def test_cross_modal_without_segments_or_projection_is_a_stack_over_both():
    visual, textual = inputs()
    visual = visual._replace(tokens=jnp.tile(visual.tokens, 2))
    fusion = FUSIONS["cross_modal"](
        width=WIDTH, layers=1, mlp_width=8, visual_projection=False, segments=0
    )
    shapes = jax.eval_shape(fusion.init, jax.random.key(1), visual, textual)
    assert set(shapes["params"]) == {"embed_norm", "transformer", "pooled"}


def test_the_start_of_a_text_is_pooled_even_if_it_is_padding():
    """As the released ViLT and LXMERT do with texts that are padded on the left."""
    visual, textual = inputs()
    left = textual._replace(mask=jnp.array([[True] * T, [False] * 2 + [True] * (T - 2)]))
    first, start = (build("cross_modal", pooling=name)(visual, left) for name in ("first", "start"))
    np.testing.assert_allclose(first.pooled[0], start.pooled[0], atol=1e-6)
    assert jnp.abs(first.pooled[1] - start.pooled[1]).max() > 1e-3
    both = build("coattention", pooling="first")
    pooled = both(visual, left).pooled
    moved = left._replace(tokens=left.tokens.at[1, 0].multiply(-1.0))  # the padding, pooled
    change = jnp.abs(both(visual, moved).pooled - pooled).max(axis=1)
    assert change[0] < 1e-6 < 1e-3 < change[1]
    nothing = left._replace(mask=left.mask.at[1].set(False))
    dirty = nothing._replace(tokens=nothing.tokens.at[1].set(1e3))
    np.testing.assert_allclose(both(visual, dirty).tokens, both(visual, nothing).tokens, atol=1e-5)
