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
        r"""First layer on images and labels apart, so that an image is read once for all of its labels, and not copied.

        With the image's features behind those of the label, which is one-hot of value v, and the normalization's factor
        :math:`s`, the same for every label,

        .. math:: W \, s \, (v \, e_\text{label}, \text{image}) + b
            = s \, W_\text{image} \, \text{image} + b + s v \, W_{\cdot, \text{label}}
        """
        linear, activation = cast(nn.Linear, first[0]), first[1]
        value = x.encoder.one_hot_value(x.image)  # (B, 1)
        # a layer that is more than its weights, or is watched, must be called
        plain = type(linear) is nn.Linear and not (linear._forward_hooks or linear._forward_pre_hooks)
        if value is None or not plain or not isinstance(self.normalization, ScaleNormalization):
            dense: Tensor = first(self.normalization(x.dense()).flatten(1))
            return dense
        classes, features = x.encoder.num_classes, linear.in_features
        image = x.image.flatten(1)[:, classes:]
        norm = torch.linalg.vector_norm(at_least_float32(image), dim=1, keepdim=True)
        norm = (norm.square() + at_least_float32(value).square()).sqrt()  # and not hypot, which ONNX has not
        columns, weight = torch.split(linear.weight, [classes, features - classes], dim=1)
        product = nn.functional.linear(image, weight)
        scale = self.normalization.scale(norm, features).to(product.dtype)
        shared = torch.addcmul(linear.bias.to(product.dtype), product, scale)  # (B, N)
        columns, value = columns.T.to(shared.dtype), (scale * value).to(shared.dtype)
        if x.label.shape[0] == 1:  # the same labels for every image
            h = torch.addcmul(shared, value, columns[x.label[0]].unsqueeze(1)).flatten(0, 1)  # (L, B, N)
        else:
            label = x.label.T.flatten().unsqueeze(1)  # (L * B, 1)
            one_hot = shared.new_zeros(label.shape[0], classes)
            one_hot.scatter_(1, label, value.repeat(x.label.shape[1], 1))
            # a product with a one-hot matrix: its backward pass is faster than that of an index
            h = shared.repeat(x.label.shape[1], 1).addmm_(one_hot, columns)
        output: Tensor = activation(h)
        return output
