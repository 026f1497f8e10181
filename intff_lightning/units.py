"""Hidden units: one to three layers with a local loss and an optimizer of their own (section 3.2 of the paper)."""

import inspect
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.labels import LabelledImages
from intff_lightning.local import Goodness, LocalLoss, MeanSquares, ScaleNormalization, SoftplusLoss, UnitL2
from intff_lightning.optim import OptimizerFactory, SchedulerFactory
from intff_lightning.recipe import Recorded, build

__all__ = ["DenseUnit", "HiddenUnit", "UnitStack"]


class HiddenUnit(Recorded, nn.Module):
    r"""A unit around any body: :math:`h = f(\operatorname{normalize}(x))`, trained on :math:`L(g(h))` alone.

    Args:
        body: any module ``(B, *) -> (B, *)``; the last activation belongs to it (the paper ends on ReLU).
        normalization: of the unit's input; default :class:`~intff_lightning.local.UnitL2`.
        goodness: of the unit's output; default :class:`~intff_lightning.local.MeanSquares`.
        loss: default :class:`~intff_lightning.local.SoftplusLoss`.
        optimizer: of this unit, in place of the module's: ``parameters -> Optimizer``.
        scheduler: of this unit's learning rate, in place of the module's: ``optimizer -> LRScheduler``.
        gradient_clip_val: of this unit, in place of the module's.
    """

    def __init__(
        self,
        body: nn.Module,
        normalization: nn.Module | None = None,
        goodness: Goodness | None = None,
        loss: LocalLoss | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        gradient_clip_val: float | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.normalization = UnitL2() if normalization is None else normalization
        self.goodness = MeanSquares() if goodness is None else goodness
        self.loss = SoftplusLoss() if loss is None else loss
        self.optimizer, self.scheduler, self.gradient_clip_val = optimizer, scheduler, gradient_clip_val

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Build the body for inputs ``(B, *input_shape)``; families override it, a given body is returned as it is."""
        return self.body

    def materialize(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Build the body for this input, once.

        Args:
            input_shape: of one sample, as the unit before hands it over.

        Returns:
            Shape of one output sample.

        Raises:
            ConfigurationError: the body does not accept the input, or the goodness not the output.
        """
        self.body = self.make_body(input_shape)
        mode = self.training
        self.eval()  # a look at the shapes must not move batch statistics or draw dropout masks
        try:
            parameter = next(self.parameters(), torch.empty(0))
            with torch.no_grad():
                output = self(torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device))
                goodness = self.goodness(output)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"cannot take an input of shape {tuple(input_shape)}: {reason}") from None
        finally:
            self.train(mode)
        if goodness.shape[:1] != (2,):
            raise ConfigurationError(f"goodness has shape {tuple(goodness.shape)} for 2 samples; (B,) is needed.")
        return tuple(output.shape[1:])

    def forward(self, x: Tensor | LabelledImages) -> Tensor:
        """Activations ``(B, *)`` of the output neurons.

        Args:
            x: ``(B, *)`` before normalization, or B images under L labels each, for ``(L * B, *)`` activations.
        """
        return self.layers(x)[-1]

    def describe(self) -> str:
        """A few words on the body, for tables."""
        return type(self.body).__name__

    def layers(self, x: Tensor | LabelledImages) -> list[Tensor]:
        """Activations of every layer: the body's children where it is a Sequential, else its output alone."""
        h: Tensor = self.normalization(x.dense() if isinstance(x, LabelledImages) else x)
        outputs = []
        for layer in self.body if isinstance(self.body, nn.Sequential) else [self.body]:
            h = layer(h)
            outputs.append(h)
        return outputs


def _initialize(layer: nn.Linear, initialization: str) -> nn.Linear:
    if initialization == "glorot_uniform":
        nn.init.xavier_uniform_(layer.weight)
    elif initialization == "kaiming_normal":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if initialization != "default":
        nn.init.zeros_(layer.bias)
    return layer


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
        initialization: Literal["default", "glorot_uniform", "kaiming_normal"] = "default",
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if not widths or min(widths) < 1:
            raise ConfigurationError(f"widths={list(widths)}: one or more layers are needed, each of 1 neuron or more.")
        if not isinstance(getattr(nn, activation, None), type):
            raise ConfigurationError(f"activation={activation!r}: torch.nn has no such class; ReLU or GELU, say.")
        self.widths, self.activation, self.initialization = list(widths), activation, initialization

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """``[Linear -> activation]`` for every width, behind a flatten."""
        sizes = [math.prod(input_shape), *self.widths]
        kind = getattr(nn, self.activation)
        # in place where it can be: a Linear's backward pass does not need its output, so half the activations go
        options = {"inplace": True} if "inplace" in inspect.signature(kind).parameters else {}
        layers = [
            nn.Sequential(_initialize(nn.Linear(size, width), self.initialization), kind(**options))
            for size, width in pairwise(sizes)
        ]
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
        classes, label = x.encoder.num_classes, x.label.T.unsqueeze(2)  # (L, B, 1)
        one_hot = image.new_zeros(*label.shape[:2], classes)
        one_hot.scatter_(2, label, (scale * value).expand_as(label))  # (L, B, C)
        # a product with a one-hot matrix: its backward pass is faster than that of an index
        columns = nn.functional.linear(one_hot, cast(nn.Linear, linear).weight[:, :classes])
        output: Tensor = activation((linear(image.mul_(scale)) + columns).flatten(0, 1))
        return output


class UnitStack(nn.ModuleList):
    """The hidden units of a network, in order.

    Args:
        units: hidden units, recipes of them, or plain modules, which become the bodies of units.

    Raises:
        ConfigurationError: there is none, or one is no module.
    """

    def __init__(self, units: Iterable[Any]) -> None:
        members = build(list(units))
        for k, unit in enumerate(members):
            if not isinstance(unit, nn.Module):
                raise ConfigurationError(f"unit_{k} is {unit!r}: a HiddenUnit, or any torch.nn.Module, is needed.")
        if not members:
            raise ConfigurationError("units is empty: a network needs one hidden unit or more.")
        super().__init__(unit if isinstance(unit, HiddenUnit) else HiddenUnit(unit) for unit in members)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[HiddenUnit]: ...

        def __getitem__(self, index: int) -> HiddenUnit: ...  # type: ignore[override]  # no slices here
