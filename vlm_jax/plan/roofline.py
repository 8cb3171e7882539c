"""How fast a step can be at best, by what the data sheet of a chip allows: a roofline (Williams,
Waterman and Patterson 2009) with the interconnect as a third roof.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vlm_jax.plan.chips import Chip
from vlm_jax.plan.collectives import Collective


class Roofline(NamedTuple):
    """Seconds per step: of the products, of reading and writing memory, of the collectives.

    They overlap at best, so that a step takes as long as the longest of them.
    """

    compute: float
    hbm: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """Of a step that overlaps all of it."""
        return max(self)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return self._fields[self.index(max(self))]


def roofline(
    chip: Chip, mesh: Mesh, flops: float, traffic: float, collectives: Sequence[Collective]
) -> Roofline:
    """The least seconds of a step.

    flops: of all devices together. traffic: bytes per device. collectives: bytes per device.
    """
    moving = [one.bytes / _bandwidth(chip, mesh, one.axes) for one in collectives]
    devices = mesh.devices.size
    return Roofline(
        compute=flops * chip.devices / (devices * chip.flops),
        hbm=traffic * chip.devices / chip.hbm_bandwidth,
        interconnect=sum(moving),
    )


def _bandwidth(chip: Chip, mesh: Mesh, axes: str) -> float:
    """Bytes per second that a device can receive from those along some axes of the mesh.

    Of the chip's links only those count that run along dimensions of the slice in which these
    devices differ, and half of them where the dimension is no ring.
    """
    places = _places(mesh)
    along = [axis for axis in mesh.axis_names if axis in axes.split("+")]
    first = tuple(slice(None) if axis in along or not along else 0 for axis in mesh.axis_names)
    group = places[first].reshape(-1, places.shape[-1])
    sides = places.reshape(-1, places.shape[-1]).max(axis=0) + 1
    wide = [side for side in sides if side > 1] or [1]
    used = [side for side, spread in zip(sides, np.ptp(group, axis=0), strict=True) if spread]
    share = sum(1.0 if side % chip.ring == 0 else 0.5 for side in used) / len(wide)
    return (share or 1.0) * chip.link_bandwidth / chip.devices


def _places(mesh: Mesh) -> np.ndarray:
    """Coordinates of the devices of a mesh in their slice, [*mesh.shape, dimensions]; a line if
    they have none.
    """
    devices: list[Any] = list(mesh.devices.flat)
    lined = not hasattr(devices[0], "coords")
    places = [(number,) if lined else device.coords for number, device in enumerate(devices)]
    return np.array(places).reshape(*mesh.devices.shape, -1)
