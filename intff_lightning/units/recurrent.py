"""Recurrent units: the rows of an image, or any sequence."""

from typing import Any, Literal

from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.units.hidden import HiddenUnit, activation_layer

__all__ = ["RecurrentUnit"]


class _Sequence(nn.Module):
    """Image rows as steps, a recurrent network over them, a dense output layer on every step's state."""

    def __init__(self, cell: nn.RNNBase, output: nn.Module) -> None:
        super().__init__()
        self.cell, self.output = cell, output

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` or ``(B, T, F)`` to ``(B, T, width)``."""
        steps = x.transpose(1, 2).flatten(2) if x.ndim == 4 else x
        states, _ = self.cell(steps)
        h: Tensor = self.output(states)
        return h


class RecurrentUnit(HiddenUnit):
    """A unit of recurrent layers over the rows of an image ``(C, H, W)``, or over a sequence ``(T, F)``.

    Hands over one vector a step, ``(T, width)``. Goodness is of the output layer, over all steps.

    Args:
        width: neurons of the state, in each direction, and of the output layer.
        layers: recurrent layers, one to three.
        cell: ``GRU`` (Cho et al. 2014) or ``LSTM``.
        bidirectional: read the sequence from both ends, so that the first steps know of the last ones.
        activation: of the output layer, the name of a class of :mod:`torch.nn`.
        **options: of :class:`~intff_lightning.units.HiddenUnit`.
    """

    def __init__(
        self,
        width: int = 128,
        layers: int = 1,
        cell: Literal["GRU", "LSTM"] = "GRU",
        bidirectional: bool = True,
        activation: str = "ReLU",
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if width < 1 or layers < 1:
            raise ConfigurationError(f"width={width} and layers={layers} must be 1 or more.")
        activation_layer(activation)  # or it is refused
        self.width, self.layer_count, self.cell = width, layers, cell
        self.bidirectional, self.activation = bidirectional, activation

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """See :meth:`HiddenUnit.make_body`."""
        if len(input_shape) not in (2, 3):
            raise ConfigurationError(
                f"is recurrent and needs an image (C, H, W) or a sequence (T, F), not an input of shape {input_shape}."
            )
        features = input_shape[0] * input_shape[2] if len(input_shape) == 3 else input_shape[1]
        kind = nn.GRU if self.cell == "GRU" else nn.LSTM
        cell = kind(features, self.width, self.layer_count, batch_first=True, bidirectional=self.bidirectional)
        both = self.width * (2 if self.bidirectional else 1)
        return _Sequence(cell, nn.Sequential(nn.Linear(both, self.width), activation_layer(self.activation)))

    def describe(self) -> str:
        """Cell, width, layers, for tables."""
        both = " both ways" if self.bidirectional else ""
        return f"{self.cell} {self.width} wide, {self.layer_count} layers{both}, {self.activation}"
