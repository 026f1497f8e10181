"""The layers of several units in a row, as one body."""

from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.modes import evaluating
from intff_lightning.recipe import from_recipe
from intff_lightning.sequences import example
from intff_lightning.units.hidden import HiddenUnit


class UnitChain(HiddenUnit):
    """The layers of several units in a row, without what is between units: for backpropagation through all of them.

    ``BackpropModule(UnitChain(units))`` has the layers of ``IntFFModule(units)``. The normalizations, goodness and
    losses of the units are not used.

    Args:
        units: Hidden units in order.
        **options: Arguments of :class:`HiddenUnit`; ``normalization`` is that of the whole chain's input.
    """

    reads_tokens = reads_padding = True  # if its units do

    def __init__(self, units: list[HiddenUnit], **options: Any) -> None:
        super().__init__(nn.Identity(), **options)
        self._units: list[HiddenUnit] = from_recipe(list(units))
        self._shape: tuple[int, ...] = ()

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        bodies: list[nn.Module] = []
        x, self._shape = example(input_shape, 2), input_shape
        for unit in self._units:
            body = unit.body_for(self._shape)
            with torch.no_grad(), evaluating(body):
                x = body(x)
            self._shape = unit.shape_after(self._shape, x)
            bodies.append(body)
        return nn.Sequential(*bodies)

    def shape_after(self, input_shape: tuple[int, ...], h: Tensor) -> tuple[int, ...]:
        return self._shape

    def describe(self) -> str:
        return " | ".join(unit.describe() for unit in self._units)
