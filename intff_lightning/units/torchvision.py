"""Units that are pieces of torchvision's networks, by name: the form of ``split`` for config files and checkpoints."""

from typing import Any

import torchvision
from torch import nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.splitting import split
from intff_lightning.units.hidden import HiddenUnit

__all__ = ["TorchvisionUnit"]


class TorchvisionUnit(HiddenUnit):
    """What a network of torchvision computes from one of its submodules up to another.

    Args:
        model: name of the network, ``resnet18`` for example.
        begin: submodule that the unit begins with; ``None`` is the network's beginning.
        end: submodule before which it ends; ``None`` is the network's end.
        weights: of torchvision's pretrained ones, by name (``DEFAULT``); ``None`` draws new ones.
        **options: of :class:`~intff_lightning.units.HiddenUnit`.
    """

    def __init__(
        self,
        model: str,
        begin: str | None = None,
        end: str | None = None,
        weights: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if model not in torchvision.models.list_models(module=torchvision.models):
            raise ConfigurationError(f"torchvision has no network {model!r}: resnet18, mobilenet_v2, ...")
        self.model, self.begin, self.end, self.weights = model, begin, end, weights

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """See :meth:`HiddenUnit.make_body`."""
        network = torchvision.models.get_model(self.model, weights=self.weights)
        return split(network, at=[] if self.begin is None else [self.begin], until=self.end)[-1]

    def describe(self) -> str:
        """Network and piece, for tables."""
        return f"{self.model} {self.begin or 'input'} to {self.end or 'output'}"
