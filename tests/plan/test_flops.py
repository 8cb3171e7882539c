"""Operations counted by hand and from the program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from vlm_jax import sharding
from vlm_jax.plan.flops import count_flops

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT = 2 * 4**3


def test_a_product_costs_two_operations_for_each_of_its_terms():
    left, right = jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7))
    assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), left, right) == 2 * 2 * 105


def test_a_loop_costs_its_body_times_its_length():
    def looped(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=7)[0]

    assert count_flops(looped, SQUARE) == 7 * PRODUCT
    nested = lambda x: jax.lax.fori_loop(0, 3, lambda _, y: looped(y), x)
    assert count_flops(nested, SQUARE) == 21 * PRODUCT


def test_what_is_computed_anew_is_counted_again():
    layer = lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ x) @ x))
    plain = count_flops(jax.grad(layer), SQUARE)
    anew = count_flops(jax.grad(jax.checkpoint(layer)), SQUARE)
    assert plain == 6 * PRODUCT  # two products, and two gradients of each
    assert plain < anew <= 8 * PRODUCT


def test_of_branches_the_larger_one_counts():
    branches = [lambda x: x, lambda x: x @ x @ x]
    assert count_flops(lambda i, x: jax.lax.switch(i, branches, x), 0, SQUARE) == 2 * PRODUCT


@pytest.mark.parametrize(("groups", "strides"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions_and_their_gradients_cost_the_same_thrice(groups, strides):
    image, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (strides, strides),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    side = 8 // strides
    forward = 2 * (2 * side * side * 6) * (4 // groups) * 9
    assert count_flops(convolve, image, kernel) == forward
    loss = lambda *given: jnp.sum(convolve(*given))
    backward = count_flops(jax.grad(loss, (0, 1)), image, kernel) - forward
    assert backward == pytest.approx(2 * forward, rel=0.2)  # borders differ


def test_a_program_per_device_counts_for_all_devices():
    mesh = sharding.make_mesh(None, jax.devices()[:4])
    per_device = jax.shard_map(
        lambda x: x @ x.T,
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    rows = jax.ShapeDtypeStruct((16, 4), jnp.float32)
    assert count_flops(per_device, rows) == 4 * PRODUCT
