"""What a network knows of a pipeline over processes: the units that this process holds, and its neighbours."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from intff_lightning.averaging import Replicas
from intff_lightning.pairs import PairedBatch

Read = Callable[[int, Any], tuple[Tensor, list[Tensor]]]
"""Maps the number of a unit and its input to its activations, and to what is wanted of them."""


class Stage(Protocol):
    """A run of consecutive units that are trained in a process of their own.

    All stages run the same code on the same batches. A stage receives the activations of the units before its own, and
    sends on those of its last unit. :class:`~intff_lightning.pipeline.UnitPipelineStrategy` makes it.
    """

    units: range
    """Numbers of the units of this stage."""
    replicas: Replicas | None
    """The processes that hold the same units and train them on other data, if there are any."""
    first_weight: Tensor | None
    """Weight of the first layer of the network, as it was when the evaluation began."""

    @property
    def first(self) -> bool:
        """Whether this stage reads the images."""

    @property
    def last(self) -> bool:
        """Whether this stage knows all units: their goodness and losses arrive there."""

    def at(self, k: int, turn: int = 0) -> None:
        """Note that unit k begins to compute. ``turn`` is the number of the inner step, or of the chunk."""

    def receive(self, batch: PairedBatch) -> list[Tensor]:
        """Return what the stage before has sent for a batch."""

    def send(self, tensors: Sequence[Tensor], batch: PairedBatch) -> None:
        """Send tensors of a batch to the next stage, if there is one."""

    def relay(self, x: Any, read: Read, count: int, alike: bool) -> list[Tensor]:
        """Evaluate the units of this stage, between the stages before and after it.

        Args:
            x: Inputs of the first unit of the network.
            read: What to do with a unit.
            count: Number of units of the network.
            alike: All tensors have the shape of the first.

        Returns:
            What was wanted of all units, with zeros for those of later stages.
        """
