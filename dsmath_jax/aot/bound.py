"""A lower bound of the time of a program, from its costs and the peak rates of the chip.

Four resources work at their peaks: the matrix units, the HBM, the links between the devices of a slice or host, and the
network between slices or hosts. No program is faster than the busiest of them (`overlapped`). If no transfer between
devices overlaps with other work, it takes `serial` at least. What is left out only adds time: elementwise work,
latencies, kernels below their peak, hosts, and waits of one resource for another.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dsmath_jax.aot.costs import Costs
from dsmath_jax.hardware import Chip


class Bound(NamedTuple):
    """Seconds that each resource is busy, on the device with the most to do."""

    compute: float
    memory: float
    links: float
    network: float

    def __add__(self, other: tuple) -> "Bound":
        return Bound(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, runs: float) -> "Bound":
        """Returns the bound of `runs` runs."""
        return Bound(*(runs * seconds for seconds in self))

    @property
    def overlapped(self) -> float:
        """Seconds that the busiest resource takes."""
        return max(self)

    @property
    def serial(self) -> float:
        """Seconds if transfers between devices wait for other work and other work for them."""
        return max(self.compute, self.memory) + self.links + self.network

    @property
    def limit(self) -> str:
        """The busiest resource."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]


def bound_of(costs: Costs, chip: Chip, devices: Iterable[Any]) -> Bound:
    """Returns the bound of a program on devices in the order of its mesh."""
    islands = np.array([island(device) for device in devices])
    sent = [np.array(each.sent_over(islands)) * each.runs for each in costs.collectives.values()]
    links, network = np.sum(sent, axis=0) if sent else (0.0, 0.0)
    return Bound(
        costs.flops / chip.peak_flops,
        costs.traffic / chip.memory_bandwidth,
        float(links) / chip.link_bandwidth,
        float(network) / chip.network_bandwidth,
    )


def island(device: Any) -> int:
    """Returns the slice of a TPU, or the host of a GPU: the devices that links join."""
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else device.process_index
