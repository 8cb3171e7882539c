"""Seconds by the data sheet, and which links a collective can use."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlm_jax.plan.chips import CHIPS
from vlm_jax.plan.collectives import Collective
from vlm_jax.plan.roofline import Roofline, roofline

V5E, V5P = CHIPS["v5e"], CHIPS["v5p"]


def slice_of(sides, shape):
    """What a mesh knows of a slice of these sides, its devices in order."""
    devices = np.empty(int(np.prod(sides)), object)
    for number, place in enumerate(np.ndindex(*sides)):
        devices[number] = SimpleNamespace(coords=(*place, *(0,) * (3 - len(sides))))
    names = ("data", "fsdp")
    return SimpleNamespace(axis_names=names, devices=devices.reshape(shape))


def seconds(chip, mesh, axes, size=1e9):
    moved = [Collective("all-gather", axes, 1, size)]
    return roofline(chip, mesh, 0.0, 0.0, moved).interconnect


def test_the_longest_of_three_bounds_a_step():
    times = Roofline(1.0, 3.0, 2.0)
    assert (times.seconds, times.bound) == (3.0, "hbm")


def test_compute_and_memory_by_the_data_sheet():
    mesh = slice_of((8, 8), (1, 64))
    times = roofline(V5E, mesh, 64 * 197e12, 819e9, [])
    assert times == (pytest.approx(1.0), pytest.approx(1.0), 0.0)


def test_a_chip_of_two_devices_shares_its_figures():
    mesh = slice_of((2,), (1, 2))
    times = roofline(CHIPS["tpu7x"], mesh, 2307e12, 3690e9, [])
    assert times == (pytest.approx(1.0), pytest.approx(1.0), 0.0)


def test_only_links_along_the_axis_help():
    open_sides = slice_of((8, 8), (8, 8))
    assert seconds(V5E, open_sides, "data+fsdp") == pytest.approx(1e9 / 100e9)
    assert seconds(V5E, open_sides, "fsdp") == pytest.approx(1e9 / 50e9)
    rings = slice_of((16, 16), (16, 16))
    assert seconds(V5E, rings, "data+fsdp") == pytest.approx(1e9 / 200e9)
    assert seconds(V5E, rings, "data") == pytest.approx(1e9 / 100e9)
    assert seconds(V5P, slice_of((4, 4, 4), (16, 4)), "fsdp") == pytest.approx(1e9 / 200e9)


def test_unknown_groups_are_taken_for_all_devices():
    mesh = slice_of((16, 16), (16, 16))
    assert seconds(V5E, mesh, "?") == seconds(V5E, mesh, "data+fsdp")
