"""Fully connected units, which read an image once for all of its labels."""

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.labels import LabelledImages
from intff_lightning.local import ScaleNormalization
from intff_lightning.units.hidden import HiddenUnit, Initialization, activation_layer, initialize

__all__ = ["DenseUnit"]


class DenseUnit(HiddenUnit):
    """A unit of fully connected layers; inputs of any shape are flattened.

    Args:
        widths: neurons of each layer. Only the last layer's count for goodness: ``widths=[100, 50]`` is the paper's
            ``(100,50)``.
        activation: after every layer, the name of a class of :mod:`torch.nn`; the paper's is ReLU.
        initialization: of the weights: torch's ``default``, ``glorot_uniform`` (the author's, zero bias) or
            ``kaiming_normal`` (zero bias).
        **options: of :class:`HiddenUnit`.
    """

    def __init__(
        self,
        widths: list[int],
        activation: str = "ReLU",
        initialization: Initialization = "default",
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if not widths or min(widths) < 1:
            raise ConfigurationError(f"widths={list(widths)}: one or more layers are needed, each of 1 neuron or more.")
        activation_layer(activation)  # or it is refused
        self.widths, self.activation, self.initialization = list(widths), activation, initialization

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """``[Linear -> activation]`` for every width, behind a flatten."""
        layers = []
        for size, width in pairwise([math.prod(input_shape), *self.widths]):
            linear = nn.Linear(size, width)
            initialize(linear, self.initialization)
            layers.append(nn.Sequential(linear, activation_layer(self.activation)))
        return nn.Sequential(nn.Flatten(), *layers)

    def describe(self) -> str:
        """Sizes and activation, for tables."""
        first = next((layer for layer in self.body.modules() if isinstance(layer, nn.Linear)), None)
        sizes = [first.in_features, *self.widths] if first is not None else self.widths
        return f"dense {'-'.join(map(str, sizes))} {self.activation}"

    def layers(self, x: Tensor | LabelledImages) -> list[Tensor]:
        """Activations of every layer, ``(B, width)`` each."""
        flatten, first, *others = cast(nn.Sequential, self.body)
        if isinstance(x, LabelledImages):
            outputs = [self._read_apart(x, cast(nn.Sequential, first))]
        else:
            outputs = [first(flatten(self.normalization(x)))]
        for layer in others:
            outputs.append(layer(outputs[-1]))
        return outputs

    def _read_apart(self, x: LabelledImages, first: nn.Sequential) -> Tensor:
        r"""First layer on images and labels apart, so that an image is read once for all of its labels.

        With the label one-hot of value v and :math:`s` the normalization's factor, the same for every label,

        .. math:: W \, s \, (\text{image} + v \, e_\text{label}) + b
            = \bigl(W \, s \, \text{image} + b\bigr) + s v \, W_{\cdot, \text{label}}
        """
        linear, activation = first
        parts = x.encoder.one_hot(x.image)
        if parts is None or not isinstance(self.normalization, ScaleNormalization):
            dense: Tensor = first(self.normalization(x.dense()).flatten(1))
            return dense
        image, value = parts  # (B, features), a copy of its own, and (B, 1)
        squares = at_least_float32(image).square().sum(1, keepdim=True) + at_least_float32(value).square()
        norm = squares.sqrt()  # and not hypot, which ONNX has not
        scale = self.normalization.scale(norm, image.shape[1]).to(image.dtype)
        shared = linear(image.mul_(scale))  # (B, N)
        value = (scale * value).to(shared.dtype)
        columns = cast(nn.Linear, linear).weight[:, : x.encoder.num_classes].to(shared.dtype)  # (N, C)
        if x.label.shape[0] == 1:  # the same labels for every image
            h = torch.addcmul(shared, value, columns.T[x.label[0]].unsqueeze(1)).flatten(0, 1)  # (L, B, N)
        else:
            label = x.label.T.flatten().unsqueeze(1)  # (L * B, 1)
            one_hot = shared.new_zeros(label.shape[0], columns.shape[1])
            one_hot.scatter_(1, label, value.repeat(x.label.shape[1], 1))
            # a product with a one-hot matrix: its backward pass is faster than that of an index
            h = shared.repeat(x.label.shape[1], 1).add_(nn.functional.linear(one_hot, columns))
        output: Tensor = activation(h)
        return output
