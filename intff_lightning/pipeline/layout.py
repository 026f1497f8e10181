"""Which process has which stage of which replica, and how all of them exchange values."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from intff_lightning.averaging import Replicas
from intff_lightning.errors import ConfigurationError
from intff_lightning.pipeline.channel import Explain, connected


@dataclass(frozen=True)
class Layout:
    """Stages and replicas of a network, in ranks.

    The first rank of each replica is its *last* stage, because goodness and losses of all units arrive there. What
    Lightning does in rank 0 alone (logs, tables, files) is therefore that of one process.
    """

    stages: int
    replicas: int

    @classmethod
    def of(cls, stages: int | list[int] | None, replicas: int | Literal["rest"], processes: int) -> "Layout":
        """Return the layout for the arguments of the strategy and the number of processes."""
        if stages is None:
            stages = processes if replicas == "rest" else processes // max(1, replicas)
        count = len(stages) if isinstance(stages, list) else stages
        copies = processes // max(1, count) if replicas == "rest" else replicas
        if count < 1 or copies < 1 or count * copies != processes:
            raise ConfigurationError(
                f"unit_pipeline: {count} stages times {copies} replicas need {count * copies} processes, and there are "
                f"{processes} devices. Change devices, stages or replicas."
            )
        return cls(count, copies)

    def place(self, rank: int) -> tuple[int, int]:
        """Return the stage and the replica of a process."""
        return self.stages - 1 - rank % self.stages, rank // self.stages

    def rank(self, stage: int, replica: int = 0) -> int:
        """Return the rank of the process of a stage."""
        return replica * self.stages + self.stages - 1 - stage

    @property
    def reporters(self) -> list[int]:
        """Ranks of the last stages of all replicas, which know all units."""
        return [self.rank(self.stages - 1, replica) for replica in range(self.replicas)]


class Exchange:
    """Exchanges of values among all processes. Each waits for all of them, so none happens in a training step.

    All processes must make it, and call its methods, in the same order.

    Args:
        layout: Stages and replicas.
        rank: Rank of this process.
        explain: Called if a connection breaks.
    """

    def __init__(self, layout: Layout, rank: int, explain: Explain) -> None:
        self.layout, self.rank, self._explain = layout, rank, explain
        self._control: Any = dist.new_group(backend="gloo")
        self.messages: Any = dist.new_group()
        """Process group of the channels between stages."""
        replicas, stages = range(layout.replicas), range(layout.stages)
        peers = [[layout.rank(stage, replica) for replica in replicas] for stage in stages]
        groups = [dist.new_group(ranks) for ranks in peers]
        on_cpu: list[Any] = [dist.new_group(ranks, backend="gloo") for ranks in peers]
        stage, _ = layout.place(rank)
        self.replicas = Replicas(layout.replicas, groups[stage]) if layout.replicas > 1 else None
        """The processes that have the stage of this process."""
        self._peers = on_cpu[stage]

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Return the tensor of one process, on the device of this process's own."""
        on_cpu = tensor.detach().cpu().contiguous().clone()
        with connected(self._explain):
            dist.broadcast(on_cpu, source, group=self._control)
        return on_cpu.to(tensor.device)

    def fill(self, tensor: Tensor, source: int) -> None:
        """Give a tensor on the CPU the values that it has in one process, in place."""
        values = tensor.detach().contiguous()
        with connected(self._explain):
            dist.broadcast(values, source, group=self._control)
        if values.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(values)

    def send_to_reporter(self, value: Any, owner: int) -> Any:
        """Return the value of one process in rank 0, and that of each process itself in the others."""
        with connected(self._explain):
            if owner != 0 and self.rank == owner:
                dist.send_object_list([value], 0, group=self._control)
            elif owner != 0 and self.rank == 0:
                received: list[Any] = [None]
                dist.recv_object_list(received, owner, group=self._control)
                return received[0]
        return value

    def count(self, vote: bool) -> int:
        """Return how many processes vote for something."""
        votes = torch.tensor(int(vote))
        with connected(self._explain):
            dist.all_reduce(votes, group=self._control)
        return int(votes)

    def agreed_flags(self, flags: int) -> int:
        """Return the largest flags of the replicas of this stage."""
        if self.replicas is None:
            return flags
        found = torch.tensor(flags)
        with connected(self._explain):
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._peers)
        return int(found)
