"""A model of the time of a pipeline over units, from the times of its units and of a message.

A stage needs, per batch, the time of its units, a constant time for loading and logging, and the time of the messages
that it receives and sends. All stages work at the same time, so a batch takes as long as the slowest stage. A link that
works beside the units (a GPU's) bounds the rate by itself; on a CPU, the same core computes and copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intff_lightning.pipeline.partition import balance


@dataclass(frozen=True)
class Link:
    """A connection between two stages."""

    latency: float
    """Seconds of a message without content."""
    bandwidth: float
    """Bytes per second."""
    beside: bool = True
    """Whether it works while the units compute."""

    def seconds(self, size: float) -> float:
        """Return the seconds of a message of ``size`` bytes."""
        return self.latency + size / self.bandwidth


LINKS = {  # orders of magnitude of today's hardware: data sheets, and what is usual for small messages
    "NVLink 4, 450 GB/s": Link(5e-6, 450e9),
    "PCIe 5 x16, 64 GB/s": Link(10e-6, 64e9),
    "400 Gbit/s InfiniBand": Link(5e-6, 50e9),
    "100 Gbit/s Ethernet": Link(30e-6, 12.5e9),
    "10 Gbit/s Ethernet": Link(50e-6, 1.25e9),
}


def batch_seconds(units: Sequence[float], constant: float, stages: int, size: float, link: Link) -> float:
    """Return the seconds of a batch.

    Args:
        units: Seconds of a training step of each unit.
        constant: Seconds per batch that every process needs beside its units.
        stages: Number of stages.
        size: Bytes of the message between two stages.
        link: Connection between two stages.
    """
    slowest = max(sum(units[k] for k in run) for run in balance(units, stages)) + constant
    if stages == 1:
        return slowest
    if link.beside:
        return max(slowest, link.seconds(size))
    return slowest + link.seconds(size) * (1 if stages == 2 else 2)  # stages in the middle receive and send
