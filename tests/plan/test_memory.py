"""Memory of programs, by the compiler's analysis or by its refusal."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vlm_jax import sharding
from vlm_jax.plan.memory import Memory, bytes_per_device, memory_beyond, memory_of

GIB = 2**30


def test_arguments_temporaries_and_output_of_a_program():
    big = jax.ShapeDtypeStruct((2**18,), jnp.float32)
    given = jax.jit(lambda x, y: (x + 1, jnp.sort(y)[:2]), donate_argnums=0)
    memory = memory_of(given.lower(big, big).compile())
    assert memory.arguments * GIB == 2 * 2**20
    assert memory.output * GIB < 100  # the donated argument is no new memory
    assert memory.temporaries * GIB >= 2**20
    assert memory.total == sum(memory)


@pytest.mark.parametrize(
    ("message", "total"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (41.60G) exceeds available HBM (15.75G).", 41.6),
        ("Ran out of memory in memory space hbm. Used 512.50M of 15.75G hbm.", 512.5 / 1024),
        ("Used 1.50T of 15.75G hbm", 1536),
    ],
)  # fmt: skip
def test_a_refusal_says_how_much_was_needed(message, total):
    memory = memory_beyond(RuntimeError(message), GIB // 4)
    assert memory is not None
    assert memory.total == pytest.approx(total)
    assert memory.arguments == 0.25


def test_other_errors_are_no_refusal():
    assert memory_beyond(RuntimeError("INTERNAL: 3.0G of something else"), 0) is None
    assert Memory(1.0, 2.0, 0.5).total == 3.5


def test_bytes_per_device_are_those_of_a_shard():
    mesh = sharding.make_mesh({"fsdp": 4}, jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    leaf = jax.ShapeDtypeStruct((8, 3), jnp.bfloat16, sharding=split)
    whole = jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=sharding.replicated(mesh))
    assert bytes_per_device({"a": leaf, "b": whole}) == 2 * 3 * 2 + 8 * 3 * 4
