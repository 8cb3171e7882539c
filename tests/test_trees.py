import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlm_jax import trees


def parameters():
    return {
        "vision": {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}},
        "vision_head": {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(5)},
        "text": {"norm_1": {"scale": jnp.ones(4, jnp.bfloat16)}},
    }


def test_flatten_and_unflatten_are_inverse():
    flat = trees.flatten(parameters())
    assert list(flat) == [
        "text/norm_1/scale",
        "vision/dense/bias",
        "vision/dense/kernel",
        "vision_head/bias",
        "vision_head/kernel",
    ]
    back = trees.unflatten(flat)
    assert jax.tree.structure(back) == jax.tree.structure(parameters())
    assert all(a is b for a, b in zip(jax.tree.leaves(back), flat.values(), strict=True))


def test_flatten_names_fields_of_optimizer_states():
    state = optax.adam(0.1).init({"a": jnp.zeros(2)})
    assert list(trees.flatten(state)) == ["0/count", "0/mu/a", "0/nu/a"]


@pytest.mark.parametrize("order", [["a", "a/b"], ["a/b", "a"]])
def test_unflatten_refuses_a_leaf_with_children(order):
    with pytest.raises(ValueError, match="leaf"):
        trees.unflatten(dict.fromkeys(order, 0))


@pytest.mark.parametrize(
    ("pattern", "selected"),
    [
        ("vision", {"vision/dense/bias", "vision/dense/kernel"}),
        ("vision.*", {"vision/dense/bias", "vision/dense/kernel"}
         | {"vision_head/bias", "vision_head/kernel"}),
        (".*/bias", {"vision/dense/bias", "vision_head/bias"}),
        (".*norm.*", {"text/norm_1/scale"}),
        ("text|vision_head/bias", {"text/norm_1/scale", "vision_head/bias"}),
    ],
)  # fmt: skip
def test_a_pattern_matches_a_whole_path_or_a_whole_ancestor(pattern, selected):
    mask = trees.flatten(trees.match([pattern], parameters()))
    assert {path for path, chosen in mask.items() if chosen} == selected


@pytest.mark.parametrize("pattern", ["visio", "dense", "kernel", "vision/dens"])
def test_a_pattern_without_a_match_is_an_error_with_suggestions(pattern):
    with pytest.raises(ValueError, match=rf"config.frozen: .*'{pattern}' selects no parameter"):
        trees.match([pattern], parameters(), "config.frozen")


def test_suggestions_are_near():
    with pytest.raises(ValueError, match="Nearest of 5 paths: vision/dense"):
        trees.match(["vision/dnse"], parameters())


def test_a_broken_regular_expression_is_named():
    with pytest.raises(ValueError, match=r"'\(vision' is not a regular expression"):
        trees.match(["(vision"], parameters())


def test_counts_and_table():
    assert trees.count_parameters(parameters()) == 6 + 3 + 15 + 5 + 4
    assert trees.count_bytes(parameters()) == 4 * 29 + 2 * 4
    shapes = jax.eval_shape(parameters)
    assert trees.count_parameters(shapes) == 33
    lines = trees.table(parameters(), depth=1).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["text", "vision", "vision_head"]
    assert lines[3].split()[-1] == "9"
    assert lines[-1].endswith(" 33")
    assert len(set(map(len, trees.table(parameters()).splitlines()))) == 1


def loaded():
    return {
        "encoder/dense/kernel": np.full((2, 3), 7.0),
        "encoder/dense/bias": np.full(3, 8.0),
        "text/norm_1/scale": np.full(4, 1.5, np.float32),
        "old_head/kernel": np.zeros((3, 9)),
    }


def test_merge_renames_skips_and_keeps_types():
    merged = trees.merge(
        parameters(), loaded(), rename=[("encoder", "vision")], skip=["vision_head", "old_head"]
    )
    assert np.all(merged["vision"]["dense"]["kernel"] == 7)
    assert merged["vision"]["dense"]["kernel"].dtype == jnp.float32
    assert merged["text"]["norm_1"]["scale"].dtype == jnp.bfloat16
    assert np.all(np.asarray(merged["vision_head"]["kernel"]) == 1)
    assert isinstance(merged["vision"]["dense"]["bias"], jax.Array)


def test_what_is_optional_is_merged_where_it_fits():
    weights = loaded() | {
        "vision_head/kernel": np.zeros((9, 9)),
        "vision_head/bias": np.full(5, 5.0),
    }
    optional = ["vision_head", "old_head", "text", "decoder"]
    merge = lambda given: trees.merge(
        parameters(), given, rename=[("encoder", "vision")], optional=optional
    )
    merged = merge(weights)
    assert np.all(np.asarray(merged["vision_head"]["kernel"]) == 1)  # of another shape
    assert np.all(np.asarray(merged["vision_head"]["bias"]) == 5)
    assert np.all(np.asarray(merged["text"]["norm_1"]["scale"]) == 1.5)
    del weights["encoder/dense/bias"]
    with pytest.raises(ValueError, match="1 missing from the loaded weights: vision/dense/bias"):
        merge(weights)


def test_rename_can_use_groups():
    renamed = trees.rename_paths(
        {"block_3/att/w": 0}, [(r"block_(\d+)/att", r"layers/\1/attention")]
    )
    assert renamed == {"layers/3/attention/w": 0}


def test_rename_refuses_to_lose_a_parameter():
    with pytest.raises(ValueError, match="same path"):
        trees.rename_paths({"a/w": 0, "b/w": 1}, [("a|b", "c")])


def test_merge_lists_every_problem_at_once():
    weights = loaded() | {"text/norm_1/scale": np.zeros(6)}
    with pytest.raises(ValueError) as error:
        trees.merge(parameters(), weights, rename=[("encoder", "vision")])
    message = str(error.value)
    assert "2 missing from the loaded weights: vision_head/bias, vision_head/kernel" in message
    assert "1 unexpected in the loaded weights: old_head/kernel" in message
    assert "1 of another shape: text/norm_1/scale (model [4], loaded [6])" in message


def test_merge_refuses_patterns_without_a_match():
    with pytest.raises(ValueError, match=r"skip: .*'hed'"):
        trees.merge(parameters(), loaded(), rename=[("encoder", "vision")], skip=["hed"])
    with pytest.raises(ValueError, match=r"rename: .*'encodr'"):
        trees.merge(parameters(), loaded(), rename=[("encodr", "vision")])
