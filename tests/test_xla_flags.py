"""Programs on a CPU compute what they say."""

import os
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.xla_flags import FUSIONS, with_safe_fusions


@pytest.mark.parametrize("jaxlib", ["0.10.2", "0.11.1.dev1", "0.12.0.1"])
def test_groups_of_operations_are_kept_from_the_library_that_gets_them_wrong(jaxlib):
    assert with_safe_fusions("--xla_dump_to=/x", jaxlib) == f"--xla_dump_to=/x {FUSIONS}="
    assert with_safe_fusions("", jaxlib) == f"{FUSIONS}="
    assert with_safe_fusions(f"{FUSIONS}=X", jaxlib) == f"{FUSIONS}=X"


@pytest.mark.parametrize("jaxlib", ["0.10.1", "0.13.0"])
def test_other_versions_are_told_nothing(jaxlib):
    assert with_safe_fusions("--a", jaxlib) == "--a"


def test_importing_the_package_says_so():
    wanted = with_safe_fusions("", version("jaxlib"))
    assert wanted in os.environ["XLA_FLAGS"]


def test_a_product_and_its_sum_are_right():
    x = np.zeros((32_769, 3), np.float32)
    x[:, 0] = np.arange(len(x))
    lengths = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
    np.testing.assert_allclose(lengths, x[:, 0] ** 2, rtol=1e-6)


def test_sums_of_products_of_means_are_right():
    def shares(words, picture):
        nothing, all_of_it = jnp.zeros((8, 16, 64)), jnp.broadcast_to(jnp.eye(64), (8, 64, 64))
        text = nothing + words.mean(1) @ nothing
        text = text + words.mean(1) @ text
        return text + jax.nn.relu(picture * picture).mean(1) @ all_of_it

    keys = jax.random.split(jax.random.key(0))
    words = jax.random.normal(keys[0], (8, 4, 16, 16))
    picture = jax.random.normal(keys[1], (8, 4, 16, 64))
    found = jax.jit(shares)(words, picture)
    np.testing.assert_allclose(found, np.mean(np.square(picture), axis=1), atol=1e-5)
