"""Fully connected units. The first one reads an image once for all of its labels."""

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError, check_choice
from intff_lightning.functional import HALF, l2_norm, scale_samples
from intff_lightning.labels import LabelledImages
from intff_lightning.lightning_compat import is_watched
from intff_lightning.local import ScaleNormalization
from intff_lightning.units.hidden import HiddenUnit, Initialization, activation_layer, initialize


class DenseUnit(HiddenUnit):
    """A unit of fully connected layers; inputs of any shape are flattened.

    Args:
        widths: Number of neurons of each layer. Only the last layer counts for goodness: ``widths=[100, 50]`` is the
            paper's ``(100,50)``.
        activation: Activation function after each layer, by the name of its class in :mod:`torch.nn`.
        initialization: Initialization of the weights: torch's ``default``, or ``glorot_uniform`` (the author's) or
            ``kaiming_normal`` with zero bias.
        **options: Arguments of :class:`HiddenUnit`.
    """

    reads_padding = True  # as zeros in their places

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
        check_choice("initialization", initialization, Initialization)
        activation_layer(activation)  # refuses unknown names now, not when the body is built
        self.widths, self.activation, self.initialization = list(widths), activation, initialization

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        layers = []
        for size, width in pairwise([math.prod(input_shape), *self.widths]):
            linear = nn.Linear(size, width)
            initialize(linear, self.initialization)
            layers.append(nn.Sequential(linear, activation_layer(self.activation)))
        return nn.Sequential(nn.Flatten(), *layers)

    def describe(self) -> str:
        first = next((layer for layer in self.body.modules() if isinstance(layer, nn.Linear)), None)
        sizes = [first.in_features, *self.widths] if first is not None else self.widths
        return f"dense {'-'.join(map(str, sizes))} {self.activation}"

    def activations(self, x: Tensor | LabelledImages) -> list[Tensor]:
        flatten, first, *further = cast(nn.Sequential, self.body)
        if isinstance(x, LabelledImages):
            outputs = [self._read_apart(x, cast(nn.Sequential, first))]
        else:
            outputs = [first(flatten(self.normalization(x)))]
        for layer in further:
            outputs.append(layer(outputs[-1]))
        return outputs

    def _read_apart(self, x: LabelledImages, first: nn.Sequential) -> Tensor:
        r"""Apply the first layer to images and labels apart, so that each image is read once and is not copied.

        The label is one-hot with the value v in the first features, or in the last ones if the encoder appends it, and
        the image holds the others. The factor :math:`s` of the normalization is the same for every label, so

        .. math:: W \, s \, (v \, e_\text{label}, \text{image}) + b
            = s \, W_\text{image} \, \text{image} + b + s v \, W_{\cdot, \text{label}}
        """
        linear, activation = cast(nn.Linear, first[0]), first[1]
        value = x.encoder.one_hot_value(x.image)  # (B, 1)
        # a subclass, or a layer with hooks, must be called
        plain = type(linear) is nn.Linear and not is_watched(linear)
        if value is None or not plain or not isinstance(self.normalization, ScaleNormalization):
            dense: Tensor = first(self.normalization(x.dense()).flatten(1))
            return dense
        classes, features, image = x.encoder.num_classes, linear.in_features, x.image.flatten(1)
        if x.encoder.appends:
            weight, columns = torch.split(linear.weight, [features - classes, classes], dim=1)
        else:
            image = image[:, classes:]
            columns, weight = torch.split(linear.weight, [classes, features - classes], dim=1)
        norm = l2_norm(image).unsqueeze(1)
        norm = (norm.square() + value.to(norm.dtype).square()).sqrt()  # ONNX has no hypot
        scale = self.normalization.scale(norm, features)
        device = image.device.type
        if image.dtype in HALF or (device != "meta" and torch.is_autocast_enabled(device)):
            # neither the factor nor the product of the image as it is may fit into half precision
            shared = nn.functional.linear(scale_samples(image, scale), weight, linear.bias)  # (B, N)
        else:
            shared = torch.addcmul(linear.bias, nn.functional.linear(image, weight), scale)
        columns, value = columns.T.to(shared.dtype), (scale * value).to(shared.dtype)
        if x.label.shape[0] == 1:  # the same labels under every image
            h = torch.addcmul(shared, value, columns[x.label[0]].unsqueeze(1)).flatten(0, 1)  # (L, B, N)
        else:
            label = x.label.T.flatten().unsqueeze(1)  # (L * B, 1)
            one_hot = shared.new_zeros(label.shape[0], classes)
            one_hot.scatter_(1, label, value.repeat(x.label.shape[1], 1))
            # the backward pass of a product with a one-hot matrix is faster than that of an index
            h = shared.repeat(x.label.shape[1], 1).addmm_(one_hot, columns)
        output: Tensor = activation(h)
        return output
