"""Units that are pieces of torchvision's networks: ``split`` for config files and checkpoints."""

from typing import Any

from torch import nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.units.hidden import HiddenUnit
from intff_lightning.units.splitting import split


class TorchvisionUnit(HiddenUnit):
    """The part of a torchvision network from one of its submodules up to another.

    Args:
        model: Name of the network, for example ``resnet18``.
        begin: First submodule of the unit; ``None`` is the network's beginning.
        end: Submodule before which the unit ends; ``None`` is the network's end.
        weights: Name of torchvision's pretrained weights (``DEFAULT``); ``None`` draws new weights.
        **options: Arguments of :class:`~intff_lightning.units.HiddenUnit`.
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
        import torchvision  # takes a while, which other units need not pay

        if model not in torchvision.models.list_models(module=torchvision.models):
            raise ConfigurationError(f"torchvision has no network {model!r}: resnet18, mobilenet_v2, ...")
        self.model, self.begin, self.end, self.weights = model, begin, end, weights

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        from torchvision.models import get_model

        network = get_model(self.model, weights=self.weights)
        return split(network, at=[] if self.begin is None else [self.begin], until=self.end)[-1]

    def describe(self) -> str:
        return f"{self.model} {self.begin or 'input'} to {self.end or 'output'}"
