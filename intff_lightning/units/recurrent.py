"""Recurrent units over the rows of an image, or over any sequence."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError, check_choice
from intff_lightning.units.hidden import activation_layer
from intff_lightning.units.positions import SequenceUnit

Cell = Literal["GRU", "LSTM"]


class _Sequence(nn.Module):
    """A recurrent network over image rows or steps, with a dense output layer on the state of each step."""

    def __init__(self, cell: nn.RNNBase, output: nn.Module) -> None:
        super().__init__()
        self.cell, self.output = cell, output

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(1, 2).flatten(2) if x.ndim == 4 else x
        states, _ = self.cell(steps)
        h: Tensor = self.output(states)
        return h


class _PaddedSequence(nn.Module):
    """The same over sequences with padding, which is read last in either direction.

    One cell for each direction: torch's packed sequences need the lengths on the CPU, and so would wait for the device.
    """

    def __init__(
        self,
        kind: type[nn.GRU] | type[nn.LSTM],
        features: int,
        width: int,
        layers: int,
        directions: int,
        output: nn.Module,
    ) -> None:
        super().__init__()
        sizes = [features, *[directions * width] * (layers - 1)]
        self.cells = nn.ModuleList(
            nn.ModuleList(kind(size, width, batch_first=True) for _ in range(directions)) for size in sizes
        )
        self.output = output

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        step, length = torch.arange(x.shape[1], device=x.device), real.sum(1, keepdim=True)
        order = torch.where(step < length, length - 1 - step, step).unsqueeze(2)  # (B, T, 1): each one from its end
        for layer in self.cells:
            found = []
            for number, cell in enumerate(cast(nn.ModuleList, layer)):
                states, _ = cell(x if number == 0 else x.gather(1, order.expand_as(x)))
                found.append(states if number == 0 else states.gather(1, order.expand_as(states)))
            x = torch.cat(found, 2)
        h: Tensor = self.output(x)
        return h


class RecurrentUnit(SequenceUnit):
    """A unit of recurrent layers over the rows of an image ``(C, H, W)``, or over a sequence ``(T, F)``.

    The output has one vector per step, ``(T, width)``. Goodness is that of the output layer, over all steps. Padding is
    not read before any step of its sequence, in either direction.

    Args:
        width: Number of neurons of the state, per direction, and of the output layer.
        layers: Number of recurrent layers, one to three.
        cell: ``GRU`` (Cho et al. 2014) or ``LSTM``.
        bidirectional: Read the sequence from both ends, so that the first steps also depend on the last ones.
        activation: Activation function of the output layer, by the name of its class in :mod:`torch.nn`.
        **options: Arguments of :class:`~intff_lightning.units.HiddenUnit`.
    """

    def __init__(
        self,
        width: int = 128,
        layers: int = 1,
        cell: Cell = "GRU",
        bidirectional: bool = True,
        activation: str = "ReLU",
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if width < 1 or layers < 1:
            raise ConfigurationError(f"width={width} and layers={layers} must be 1 or more.")
        check_choice("cell", cell, Cell)
        activation_layer(activation)  # refuses unknown names now, not when the body is built
        self.width, self.layer_count, self.cell = width, layers, cell
        self.bidirectional, self.activation = bidirectional, activation

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        if len(input_shape) not in (2, 3):
            raise ConfigurationError(
                f"is recurrent and needs an image (C, H, W) or a sequence (T, F), not an input of shape {input_shape}."
            )
        features = input_shape[0] * input_shape[2] if len(input_shape) == 3 else input_shape[1]
        kind = nn.GRU if self.cell == "GRU" else nn.LSTM
        cell = kind(features, self.width, self.layer_count, batch_first=True, bidirectional=self.bidirectional)
        return _Sequence(cell, self._output())

    def make_padded_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        kind = nn.GRU if self.cell == "GRU" else nn.LSTM
        directions = 2 if self.bidirectional else 1
        return _PaddedSequence(kind, input_shape[1], self.width, self.layer_count, directions, self._output())

    def _output(self) -> nn.Module:
        both = self.width * (2 if self.bidirectional else 1)
        return nn.Sequential(nn.Linear(both, self.width), activation_layer(self.activation))

    def describe(self) -> str:
        both = " both ways" if self.bidirectional else ""
        return f"{self.cell} {self.width} wide, {self.layer_count} layers{both}, {self.activation}"
