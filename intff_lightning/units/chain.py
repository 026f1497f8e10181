"""The layers of several units in a row, as one body."""

from typing import Any

import torch
from torch import nn

from intff_lightning.modes import evaluating
from intff_lightning.recipe import from_recipe
from intff_lightning.units.hidden import HiddenUnit


class UnitChain(HiddenUnit):
    """The layers of several units in a row, without what is between units: for backpropagation through all of them.

    ``BackpropModule(UnitChain(units))`` has the layers of ``IntFFModule(units)``. The normalizations, goodness and
    losses of the units are not used.

    Args:
        units: Hidden units in order.
        **options: Arguments of :class:`HiddenUnit`; ``normalization`` is that of the whole chain's input.
    """

    def __init__(self, units: list[HiddenUnit], **options: Any) -> None:
        super().__init__(nn.Identity(), **options)
        self._units: list[HiddenUnit] = from_recipe(list(units))

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        bodies: list[nn.Module] = []
        x = torch.zeros(2, *input_shape)
        for unit in self._units:
            body = unit.make_body(tuple(x.shape[1:]))
            with torch.no_grad(), evaluating(body):
                x = body(x)
            bodies.append(body)
        return nn.Sequential(*bodies)

    def describe(self) -> str:
        return " | ".join(unit.describe() for unit in self._units)
