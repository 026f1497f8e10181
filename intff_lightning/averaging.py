"""Averaging the gradients of a unit over processes, while the next unit is computed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Replicas:
    """Processes that hold the same units and train them on different data.

    Args:
        count: Number of processes.
        group: Their process group, or ``None`` for all processes.
    """

    def __init__(self, count: int, group: Any = None) -> None:
        self.count, self.group = count, group

    def average(self, parameters: Iterable[nn.Parameter]) -> Callable[[], None]:
        """Begin to average gradients, in one piece, and return what ends it: call it before the gradients are used."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        work: Any = torch.distributed.all_reduce(total, group=self.group, async_op=True)

        def end() -> None:
            work.wait()
            parts = torch.split(total.div_(self.count), [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

        return end
