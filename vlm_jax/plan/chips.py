"""What an accelerator chip can do, from its maker's public documentation, in one table."""

from typing import NamedTuple

from vlm_jax.kwargs import suggestion

GIB, TERA, GIGA = 2**30, 1e12, 1e9


class Chip(NamedTuple):
    """One chip of a slice.

    flops: bf16 operations per second, a multiply-add being two. hbm_gib: its memory. usable_gib:
    what the compiler gives to one program of it. hbm_bandwidth, link_bandwidth: bytes per second,
    the latter over all links to other chips together and in one direction. ring: sides of a slice
    that are multiples of this are closed to rings. devices: how many JAX devices share the chip,
    and all of these figures evenly. accelerator: how the accelerator types of its slices begin.
    source: where the figures stand.
    """

    name: str
    flops: float
    hbm_gib: float
    usable_gib: float
    hbm_bandwidth: float
    link_bandwidth: float
    ring: int
    devices: int
    accelerator: str
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4", 275 * TERA, 32, 30.75, 1228 * GIGA, 300 * GIGA, 4, 1, "v4",
            "cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1228 GB/s, six links of 50 GB/s",
        ),
        Chip(
            "v5e", 197 * TERA, 16, 15.75, 819 * GIGA, 200 * GIGA, 16, 1, "v5litepod",
            "cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, 400 GB/s in both "
            "directions",
        ),
        Chip(
            "v5p", 459 * TERA, 95, 95.74, 2765 * GIGA, 600 * GIGA, 4, 1, "v5p",
            "cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GB, 2765 GB/s, 1200 GB/s in both "
            "directions",
        ),
        Chip(
            "v6e", 918 * TERA, 32, 31.25, 1638 * GIGA, 400 * GIGA, 16, 1, "v6e",
            "cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB, 1638 GB/s, 800 GB/s in both "
            "directions",
        ),
        Chip(
            "tpu7x", 2307 * TERA, 192, 189.5, 7380 * GIGA, 600 * GIGA, 4, 2, "tpu7x",
            "cloud.google.com/tpu/docs/tpu7x: 2307 TFLOP/s, 192 GiB, 7380 GB/s, 1200 GB/s in "
            "both directions, two devices",
        ),
        Chip(
            "cpu", 0.1 * TERA, 16, 16.0, 20 * GIGA, 10 * GIGA, 1, 1, "",
            "no maker's figures: round numbers of one laptop core, so that arithmetic goes on",
        ),
    )
}  # fmt: skip
"""Chip by the name that begins a topology, such as v5e in "v5e:8x8"."""


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:8x8" or "cpu:8". ValueError for another kind."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ValueError(
            f"topology {topology!r}: unknown chip {kind!r}; {suggestion(kind, CHIPS)}"
            f"valid: {', '.join(CHIPS)}"
        )
    return CHIPS[kind]
