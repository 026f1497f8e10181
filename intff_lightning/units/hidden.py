"""Hidden units: one to three layers with a local loss and an optimizer of their own (section 3.2 of the paper)."""

import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelledImages
from intff_lightning.local import Goodness, LocalLoss, MeanSquares, SoftplusLoss, UnitL2
from intff_lightning.optim import OptimizerFactory, SchedulerFactory
from intff_lightning.recipe import Recorded, build

__all__ = ["HiddenUnit", "UnitStack", "activation_layer", "initialize"]


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

    output_shape: tuple[int, ...] = ()
    """Of one sample, once the body is built."""

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
        except ConfigurationError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"cannot take an input of shape {tuple(input_shape)}: {reason}") from None
        finally:
            self.train(mode)
        expected = (2, self.goodness.num_classes) if getattr(self.goodness, "by_class", False) else (2,)
        if tuple(goodness.shape) != expected:
            raise ConfigurationError(f"goodness has shape {tuple(goodness.shape)} for 2 samples; {expected} is needed.")
        self.output_shape = tuple(output.shape[1:])
        return self.output_shape

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


Initialization = Literal["default", "glorot_uniform", "kaiming_normal"]


def initialize(layer: nn.Module, initialization: Initialization) -> None:
    """Draw a layer's weights: torch's ``default``, or ``glorot_uniform`` or ``kaiming_normal`` with zero bias."""
    if initialization == "default":
        return
    weight: Any = layer.weight
    if initialization == "glorot_uniform":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # a parameter


def activation_layer(name: str) -> nn.Module:
    """An activation by the name of its class in :mod:`torch.nn`, in place where it can be.

    Raises:
        ConfigurationError: there is no such class.
    """
    kind = getattr(nn, name, None)
    if not isinstance(kind, type):
        raise ConfigurationError(f"activation={name!r}: torch.nn has no such class; ReLU or GELU, say.")
    # the backward pass of the layer before does not need its output, so half of the activations go
    options = {"inplace": True} if "inplace" in inspect.signature(kind).parameters else {}
    layer: nn.Module = kind(**options)
    return layer


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
