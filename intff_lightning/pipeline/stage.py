"""One stage of a pipeline: the units of this process, between the channels to its neighbours."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intff_lightning.averaging import Replicas
from intff_lightning.draws import derived_seed
from intff_lightning.errors import DataError
from intff_lightning.pairs import PairedBatch
from intff_lightning.pipeline.channel import Channel
from intff_lightning.stage import Read

STOP, TIME_IS_UP, DRAWN = 1, 2, 4
"""Flags that travel with a training batch: all stages stop after it, for a signal or because the time is up; a unit has
drawn random numbers."""


class PipelineStage:
    """The part of a network that this process trains; a :class:`~intff_lightning.stage.Stage`.

    Args:
        number: Number of the stage, from 0 for the first units.
        units: Its units.
        before: Channel from the stage before, or ``None`` for the first one.
        after: Channel to the next stage, or ``None`` for the last one.
        replicas: The processes that have the same units.

    Attributes:
        flag: Flags of the current batch.
        unit: The unit that this process computes at the moment.
        since: When it began.
        longest: Seconds of the longest step of each unit so far.
        draws: While a batch is trained, numbers on which the random draws of its units depend: each unit draws for
            itself, and so alike for any number of stages.
    """

    def __init__(
        self,
        number: int,
        units: range,
        before: Channel | None,
        after: Channel | None,
        replicas: Replicas | None,
    ) -> None:
        self.number, self.units, self.before, self.after, self.replicas = number, units, before, after, replicas
        self.flag = 0
        self.unit: int | None = None
        self.since = 0.0
        self.longest: dict[int, float] = {}
        self.draws: tuple[int, ...] | None = None
        self._seeded: Tensor | None = None
        self.first_weight: Tensor | None = None

    @property
    def first(self) -> bool:
        return self.before is None

    @property
    def last(self) -> bool:
        return self.after is None

    def at(self, k: int | None, turn: int = 0) -> None:
        """Note that unit k begins to compute, or none."""
        now = time.monotonic()
        if self.unit is not None:
            self.longest[self.unit] = max(self.longest.get(self.unit, 0.0), now - self.since)
        self.unit, self.since = k, now
        if self._seeded is not None and not torch.equal(self._seeded, torch.get_rng_state()):
            self.flag |= DRAWN
        self._seeded = None
        if k is not None and self.draws is not None:
            seed = derived_seed(*self.draws, k, turn)
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_available():
                torch.cuda.manual_seed(seed)
            self._seeded = torch.get_rng_state()

    def receive(self, batch: PairedBatch | None = None) -> list[Tensor]:
        """Return what the stage before sent; refuse it if it was computed for another batch."""
        assert self.before is not None
        self.at(None)
        (*tensors, theirs), self.flag = self.before.receive()
        if batch is not None and not torch.allclose(theirs, _fingerprint(batch), rtol=1e-3, equal_nan=True):
            raise DataError(
                f"stage {self.number} of the pipeline reads other samples than the stage before it.\n"
                "Every process must read the same batches: call seed_everything, and do not shuffle by another source."
            )
        return tensors

    def send(self, tensors: Sequence[Tensor], batch: PairedBatch | None = None) -> None:
        """Send tensors to the next stage, if there is one."""
        self.at(None)
        if self.after is not None:
            fingerprint = tensors[0].new_zeros(0) if batch is None else _fingerprint(batch)
            self.after.send([*(tensor.detach() for tensor in tensors), fingerprint], self.flag)

    def relay(self, x: Any, read: Read, count: int, alike: bool) -> list[Tensor]:
        """Evaluate the units of this stage; see :meth:`intff_lightning.stage.Stage.relay`."""
        found: list[Tensor] = []
        if not self.first:
            x, *found = self.receive()
        for k in self.units:
            self.at(k)
            x, wanted = read(k, x)
            found += wanted
        self.send([x, *found])
        later = range(self.units[-1] + 1, count)
        if alike:
            return found + [torch.zeros_like(found[0]) for _ in later]
        device, x = x.device, x.to("meta")
        for k in later:  # the units of other stages are on the meta device, where they compute shapes
            x, wanted = read(k, x)
            found += [torch.zeros_like(like, device=device) for like in wanted]
        return found


def _fingerprint(batch: PairedBatch) -> Tensor:
    """Return three numbers ``(3,)`` that differ if another batch, or another augmentation of it, was read."""
    image, target, _, negative = batch
    places = torch.arange(1, len(target) + 1, device=target.device)
    wrong = target if negative is None else (negative + 1).sum(1)
    brightness = image.sum(dtype=torch.float32)
    return torch.stack([brightness, ((target + 1) * places).sum().float(), (wrong * places).sum().float()])
