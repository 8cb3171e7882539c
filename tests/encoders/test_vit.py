"""ViT: what enters its Transformer, what leaves it, and which tokens are where."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.vit import ViT
from vlm_jax.layers.embed import sincos_2d
from vlm_jax.layers.transformer import Transformer

TINY = {"patch": 4, "width": 8, "layers": 2, "heads": 2, "mlp_width": 12, "image_size": 12}


def images(batch=2, height=12, width=12, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, height, width, 3)), jnp.float32)


def apply(module, variables, *inputs, train=False, **named):
    """Module.apply, compiled as one program."""
    return jax.jit(partial(module.apply, train=train))(variables, *inputs, **named)


def embed(params, x, patch=4):
    """NumPy: patches cut one by one in row-major order, then the linear layer."""
    kernel, bias = params["patch_embedding"]["kernel"], params["patch_embedding"]["bias"]
    high, wide = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = x.shape[1] // high, x.shape[2] // wide
    cut = lambda r, c: np.asarray(x)[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide]
    patches = [cut(r, c).reshape(len(x), -1) for r in range(rows) for c in range(columns)]
    return np.stack(patches, axis=1) @ kernel + bias


def test_vit_is_patches_positions_and_a_transformer(randomise):
    x, encoder = images(), ViT(**TINY, keep_class_token=True, activation="gelu_tanh", epsilon=1e-3)
    variables = randomise(encoder, x)
    params = variables["params"]
    first = np.broadcast_to(params["class_token"], (2, 1, 8))
    embedded = np.concatenate([first, embed(params, x)], axis=1) + params["position"]
    stack = Transformer(2, 2, 12, activation="gelu_tanh", epsilon=1e-3)
    expected, _ = apply(stack, {"params": params["transformer"]}, jnp.asarray(embedded))
    features = apply(encoder, variables, x)
    np.testing.assert_allclose(features.tokens, expected, atol=1e-4)
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    assert features.mask.shape == (2, 10)
    without = apply(encoder.clone(keep_class_token=False), variables, x)
    np.testing.assert_allclose(without.tokens, expected[:, 1:], atol=1e-4)
    np.testing.assert_allclose(without.pooled, features.pooled, atol=1e-6)


def test_clip_norms_the_embeddings_first(randomise):
    x, encoder = images(), ViT(**TINY | {"layers": 0}, pre_norm=True, final_norm=False)
    variables = randomise(encoder, x)
    params = variables["params"]
    y = embed(params, x) + params["position"][1:]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    y = y * params["embeddings_norm"]["scale"] + params["embeddings_norm"]["bias"]
    np.testing.assert_allclose(apply(encoder, variables, x).tokens, y, atol=1e-4)


def test_a_change_in_one_patch_stays_in_its_row_major_token(randomise):
    x, encoder = images(1), ViT(**TINY | {"layers": 0})
    variables = randomise(encoder, x)
    changed = x.at[:, 5, 9].multiply(-2.0)  # second row of patches, third column
    difference = apply(encoder, variables, changed).tokens - apply(encoder, variables, x).tokens
    moved = np.flatnonzero(np.abs(np.asarray(difference)).max(axis=(0, 2)))
    np.testing.assert_array_equal(moved, [5])


def test_without_positions_permuted_patches_give_permuted_tokens(randomise):
    fields = TINY | {"positions": "none", "class_token": False, "pooling": "mean"}
    x, encoder, order = images(1), ViT(**fields), np.array([4, 0, 8, 2, 6, 1, 3, 7, 5])
    cells = np.asarray(x).reshape(1, 3, 4, 3, 4, 3).swapaxes(2, 3).reshape(1, 9, 4, 4, 3)[:, order]
    shuffled = cells.reshape(1, 3, 3, 4, 4, 3).swapaxes(2, 3).reshape(1, 12, 12, 3)
    variables = randomise(encoder, x)
    before, after = apply(encoder, variables, x), apply(encoder, variables, jnp.asarray(shuffled))
    np.testing.assert_allclose(after.tokens, before.tokens[:, order], atol=1e-5)
    np.testing.assert_allclose(after.pooled, before.pooled, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_masked_patches_and_other_images_change_nothing(randomise, pooling):
    x, encoder = images(2), ViT(**TINY, pooling=pooling)
    variables = randomise(encoder, x)
    mask = jnp.arange(9)[None] < jnp.array([[6], [9]])  # the last row of patches is not real
    garbage = x.at[0, 8:].set(50.0)
    clean, dirty = (apply(encoder, variables, image, mask) for image in (x, garbage))
    np.testing.assert_allclose(clean.pooled[0], dirty.pooled[0], atol=1e-6)
    np.testing.assert_allclose(clean.tokens[0, :6], dirty.tokens[0, :6], atol=1e-6)
    alone = apply(encoder, variables, x[:1], mask[:1])
    np.testing.assert_allclose(alone.pooled, clean.pooled[:1], atol=1e-5)


def test_no_pooling_leaves_no_summary(randomise):
    x, encoder = images(), ViT(**TINY, pooling="none")
    assert apply(encoder, randomise(encoder, x), x).pooled is None


def test_attention_pooling_does_not_care_for_the_order_of_tokens(randomise):
    x, encoder = images(1), ViT(**TINY | {"layers": 0, "positions": "none"}, pooling="attention")
    variables = randomise(encoder, x)
    flipped = jnp.concatenate([x[:, 8:], x[:, 4:8], x[:, :4]], axis=1)
    pooled = [apply(encoder, variables, image).pooled for image in (x, flipped)]
    np.testing.assert_allclose(*pooled, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_positions_are_resized_to_other_resolutions(randomise, positions):
    fields = TINY | {"layers": 0, "final_norm": False, "positions": positions}
    x, encoder = images(1, 20, 24), ViT(**fields)
    variables = randomise(encoder, images(1))
    params = variables["params"]
    table = params["position"][1:] if positions == "learned" else sincos_2d(3, 3, 8)
    table = jax.image.resize(table.reshape(3, 3, 8), (5, 6, 8), "bilinear").reshape(30, 8)
    features = apply(encoder, variables, x)
    np.testing.assert_allclose(features.tokens[0], embed(params, x)[0] + table, atol=1e-4)
    own = apply(encoder, variables, x[:, :12, :12])
    assert own.tokens.shape == (1, 9, 8)
    assert features.tokens.shape == (1, 30, 8)
    np.testing.assert_allclose(own.pooled, features.pooled, atol=1e-6)  # the class token's own row


def test_pixels_beyond_the_last_whole_patch_are_not_seen(randomise):
    x, encoder = images(1, 14, 13), ViT(**TINY)
    variables = randomise(encoder, x)
    whole = apply(encoder, variables, x[:, :12, :12])
    np.testing.assert_array_equal(apply(encoder, variables, x).tokens, whole.tokens)


def test_convolutional_stem_makes_the_same_grid_in_the_same_order(randomise):
    x, encoder = jnp.zeros((1, 12, 12, 3)), ViT(**TINY | {"layers": 0}, stem="conv")
    variables = randomise(encoder, x)
    changed = x.at[:, 5, 9].set(3.0)
    difference = apply(encoder, variables, changed).tokens - apply(encoder, variables, x).tokens
    moved = np.abs(np.asarray(difference)).max(axis=(0, 2))
    assert moved.shape == (9,)
    assert moved.argmax() == 5
    assert moved[[0, 3, 6]].max() == 0


def test_patches_may_be_columns(randomise):
    x, fields = images(height=8, width=12), TINY | {"patch": (8, 4), "image_size": (8, 12)}
    encoder = ViT(**fields | {"layers": 0}, final_norm=False)
    params = (variables := randomise(encoder, x))["params"]
    expected = embed(params, x, (8, 4)) + params["position"][1:]
    np.testing.assert_allclose(apply(encoder, variables, x).tokens, expected, atol=1e-5)
    conv = ViT(**fields, stem="conv", stem_width=6, positions="sincos")
    variables = randomise(conv, x)
    shapes = jax.tree.map(jnp.shape, variables["params"]["conv_stem"])
    kernels = [shapes[f"conv{layer}"]["kernel"][2:] for layer in (1, 2, 3)]
    assert kernels == [(3, 6), (6, 8), (8, 8)]  # doubled up to the width
    assert apply(conv, variables, x).tokens.shape == (2, 3, 8)


def test_standardised_images_have_no_colours_of_their_own(randomise):
    x, encoder = images(), ViT(**TINY, standardised=True)
    variables = randomise(encoder, x)
    scale, shift = jnp.asarray([[[[0.5, 2.0, 3.0]]], [[[1.0, -2.0, 0.3]]]])[:, None]
    given, recoloured = (apply(encoder, variables, y).tokens for y in (x, x * scale + shift))
    np.testing.assert_allclose(recoloured, given, atol=2e-3)
    swapped = apply(encoder, variables, x[..., ::-1]).tokens
    assert np.abs(swapped - given).max() > 0.01
    np.testing.assert_array_equal(
        apply(encoder, variables, 0 * x).tokens, apply(encoder, variables, 0 * x + 0.5).tokens
    )
    with pytest.raises(ValueError, match="needs whole images"):
        encoder.init(jax.random.key(0), jnp.ones((1, 9, 48)), shapes=jnp.array([[3, 3]]))


def test_classes_turn_pooled_into_scores(randomise):
    x, encoder = images(), ViT(**TINY, classes=5)
    assert apply(encoder, randomise(encoder, x), x).pooled.shape == (2, 5)


def test_bfloat16_compute_keeps_float32_parameters(randomise):
    x, encoder = images(), ViT(**TINY, dtype=jnp.bfloat16, pooling="attention", pre_norm=True)
    variables = randomise(encoder, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    features = apply(encoder, variables, x)
    assert features.tokens.dtype == features.pooled.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling='max'"),
        ({"positions": "rope"}, "positions='rope'"),
        ({"stem": "mlp"}, "stem='mlp'"),
        ({"class_token": False}, "need class_token=True"),
        ({"pooling": "none", "classes": 3}, "needs a pooled vector"),
        ({"patch": 16}, "12 x 12 pixels .* do not hold one patch of 16"),
        ({"patch": 3, "stem": "conv"}, r"powers of two as patch, not \(3, 3\)"),
        ({"patch": (16, 4)}, r"12 x 12 pixels .* do not hold one patch of \(16, 4\)"),
    ],
)
def test_impossible_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ViT(**TINY | fields).init, jax.random.key(0), images())


def test_patches_cut_beforehand_are_read_like_the_image(randomise):
    x, encoder = images(), ViT(**TINY, class_token=False, pooling="attention")
    variables = randomise(encoder, x)
    cut = np.asarray(x).reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, -1)
    whole = apply(encoder, variables, x)
    shapes = jnp.array([[3, 3], [3, 3]])
    found = apply(encoder, variables, jnp.asarray(cut), shapes=shapes)
    np.testing.assert_allclose(found.tokens, whole.tokens, atol=1e-5)
    wide = images(height=8, width=20)
    cut = np.asarray(wide).reshape(2, 2, 4, 5, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 10, -1)
    padded = jnp.pad(jnp.asarray(cut), ((0, 0), (0, 3), (0, 0)), constant_values=9.0)
    mask = jnp.broadcast_to(jnp.arange(13)[None] < 10, (2, 13))
    found = apply(encoder, variables, padded, mask, shapes=jnp.array([[2, 5], [2, 5]]))
    expected = apply(encoder, variables, wide)
    np.testing.assert_allclose(found.tokens[:, :10], expected.tokens, atol=1e-5)
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    with pytest.raises(ValueError, match="shapes"):
        encoder.init(jax.random.key(0), jnp.asarray(cut))


def test_a_class_token_without_position_is_one_at_position_zero(randomise):
    x, encoder = images(), ViT(**TINY, class_position=False)
    variables = randomise(encoder, x)
    params = variables["params"]
    assert params["position"].shape == (9, 8)
    table = np.concatenate([np.zeros((1, 8), np.float32), params["position"]])
    other = {"params": params | {"position": table}}
    expected = apply(encoder.clone(class_position=True), other, x)
    np.testing.assert_allclose(apply(encoder, variables, x).tokens, expected.tokens, atol=1e-6)


@pytest.mark.parametrize(("pooler", "after"), [("linear", lambda y: y), ("tanh", np.tanh)])
def test_a_pooler_is_one_layer_on_the_summary(pooler, after, randomise):
    x, encoder = images(), ViT(**TINY, pooler=pooler, pooler_width=5, classes=3)
    variables = randomise(encoder, x)
    params = variables["params"]
    plain = encoder.clone(pooler=None, classes=None)
    y = np.asarray(apply(plain, variables, x).pooled)
    y = after(y @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    expected = y @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(apply(encoder, variables, x).pooled, expected, atol=1e-5)


ROTARY = TINY | {"positions": "rotary", "class_token": False, "pooling": "none", "image_size": 4}


def test_blocks_reorder_tokens_and_nothing_else(randomise):
    x = images(height=16, width=24)
    plain = ViT(**TINY, class_token=False, pooling="none")
    blocks = plain.clone(block=2)
    variables = randomise(plain, x)
    mask = jnp.arange(24)[None] < jnp.array([[24], [17]])
    expected = apply(plain, variables, x, mask)
    found = apply(blocks, variables, x, mask)
    grid = np.arange(24).reshape(4, 6)
    order = [grid[r : r + 2, c : c + 2].ravel() for r in (0, 2) for c in (0, 2, 4)]
    np.testing.assert_allclose(found.tokens, expected.tokens[:, np.concatenate(order)], atol=1e-5)
    np.testing.assert_array_equal(found.mask, expected.mask[:, np.concatenate(order)])


def test_packed_patches_are_as_good_as_images(randomise):
    """Two images of different shapes in one row, each blind to the other and to padding."""
    encoder = ViT(**ROTARY, block=2, frames=2, theta=50.0)
    pictures = [images(1, 8, 16), images(1, 16, 8, seed=1)]
    variables = randomise(encoder, pictures[0])
    alone = [apply(encoder, variables, picture) for picture in pictures]
    patches = []
    for picture, one in zip(pictures, alone, strict=True):
        cut = [picture[0, r * 4 : r * 4 + 4, c * 4 : c * 4 + 4] for _, r, c in one.places[0]]
        patches += [np.stack([patch, patch]).ravel() for patch in cut]
    packed = np.stack([*patches, np.full(96, 9.0, np.float32)])[None]
    places = np.concatenate([one.places for one in alone] + [np.zeros((1, 1, 3), int)], axis=1)
    segments = np.array([[1] * 8 + [2] * 8 + [0]])
    found = apply(encoder, variables, packed, places=places, segments=segments)
    expected = np.concatenate([one.tokens for one in alone], axis=1)
    np.testing.assert_allclose(found.tokens[:, :16], expected, atol=1e-5)
    assert found.mask.tolist() == [[True] * 16 + [False]]
    np.testing.assert_array_equal(found.places, places)


def test_rotary_positions_tell_places_apart(randomise):
    encoder, x = ViT(**ROTARY), images()
    variables = randomise(encoder, x)
    plain = apply(encoder.clone(positions="none"), variables, x).tokens
    assert np.abs(apply(encoder, variables, x).tokens - plain).max() > 1e-3
    with pytest.raises(ValueError, match="places"):
        encoder.apply(variables, jnp.zeros((1, 4, 48)))
    with pytest.raises(ValueError, match="class_token=False"):
        encoder.clone(class_token=True, block=2).init(jax.random.key(0), x)


def test_position_tables_may_be_of_rectangles(randomise):
    fields = TINY | {"image_size": (8, 20), "layers": 0}
    x, encoder = images(height=8, width=20), ViT(**fields, final_norm=False)
    variables = randomise(encoder, x)
    params = variables["params"]
    assert params["position"].shape == (11, 8)
    expected = embed(params, x) + params["position"][1:]
    np.testing.assert_allclose(apply(encoder, variables, x).tokens, expected, atol=1e-5)
    assert apply(encoder, variables, images()).tokens.shape == (2, 9, 8)
    assert ViT(**fields, positions="sincos").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="must be square"):
        encoder.init(jax.random.key(0), jnp.ones((1, 4, 48)), shapes=jnp.array([[2, 2]]))
