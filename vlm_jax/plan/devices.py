"""The devices of a topology that is not there: TPU slices described by libtpu, or fake CPUs."""

import os
from typing import Any

import jax

from vlm_jax.libtpu import quiet_libtpu
from vlm_jax.plan.chips import chip_of


def devices_of(topology: str) -> list[Any]:
    """The devices of "v5e:8x8" (libtpu compiles for them on any machine) or "cpu:8".

    ValueError for a topology that libtpu does not know, or more CPU devices than this process has;
    RuntimeError, saying what to install, without libtpu.
    """
    chip = chip_of(topology)
    if chip.name == "cpu":
        return _fake(topology)
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeError(
            f"topology {topology!r} needs libtpu, which compiles for TPUs on any Linux machine: "
            "pip install 'vlm_jax[plan]'"
        ) from error
    from jax.experimental import topologies  # it is only here that a plan needs it

    quiet_libtpu(os.environ, f"{chip.accelerator}-{_product(topology)}")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several plans at a time
    try:
        options = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
        described = topologies.get_topology_desc(topology, "tpu", **options)
    except Exception as error:  # libtpu raises many kinds, all of which mean the same here
        raise ValueError(f"topology {topology!r}: libtpu says {_first_line(error)}") from error
    return list(described.devices)


def chips_of(topology: str, devices: int) -> int:
    """How many chips so many devices of a topology are."""
    return devices // chip_of(topology).devices


def _fake(topology: str) -> list[Any]:
    """CPU devices of this process, made now if JAX has none yet."""
    count = _product(topology)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # the devices have been made before: see below whether they are enough
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(f"topology {topology!r}: this process has {len(devices)} CPU devices")
    return devices[:count]


def _product(topology: str) -> int:
    """Chips of a topology. ValueError if it is not KIND:AxB or KIND:AxBxC."""
    sides = topology.partition(":")[2].split("x")
    if not all(side.isdigit() and int(side) > 0 for side in sides):
        raise ValueError(f"topology {topology!r}: write it like v5e:8x8, v5p:4x4x4 or cpu:8")
    product = 1
    for side in sides:
        product *= int(side)
    return product


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
