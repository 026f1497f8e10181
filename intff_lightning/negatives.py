"""Where negative data comes from.

A source is called once a batch, on the device: ``source(image, target, encoder=..., model=..., generator=...)``.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelEncoder
from intff_lightning.recipe import Recorded

__all__ = ["NegativeSource", "RelabellingSource", "ShuffledLabels", "WrongLabels", "model_for"]


class NegativeSource(Recorded):
    """Base of negative sources; any callable of this form will do."""

    uses_model: bool = False
    """Whether the source asks the network, and is to be given it."""

    def __call__(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> tuple[Tensor, Tensor | None]:
        """Make k negatives for each of B samples.

        Args:
            image: ``(B, *)``.
            target: ``(B,)`` true classes.
            encoder: puts labels into images; knows ``num_classes``.
            model: the network in training, in eval mode and without gradients, where ``uses_model`` is set.
            generator: the draws of these samples in this epoch.

        Returns:
            Network inputs ``(B * k, *)``, a sample's k in a row, and the classes shown ``(B, k)``, or ``None``.
        """
        raise NotImplementedError


class RelabellingSource(NegativeSource):
    """Base of sources whose negatives are the images themselves under other labels: implement ``labels``."""

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """Choose the labels ``(B, k)``; arguments as of :class:`NegativeSource`."""
        raise NotImplementedError

    def __call__(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :class:`NegativeSource`."""
        label = self.labels(image, target, encoder=encoder, model=model, generator=generator)
        return encoder(image.repeat_interleave(label.shape[1], dim=0), label.flatten()), label


class WrongLabels(RelabellingSource):
    """The image itself under k different labels, each strictly wrong.

    Args:
        k: negatives per positive, from 1 to ``num_classes - 1``.
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise ConfigurationError(f"WrongLabels(k={k}): k is the number of negatives per positive, at least 1.")
        self.k = k

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """K labels per sample, uniform over the wrong ones."""
        wrong = encoder.num_classes - 1
        if self.k > wrong:
            raise ConfigurationError(f"WrongLabels(k={self.k}): of {wrong + 1} classes only {wrong} are wrong.")
        # distances 1..C-1 from the true label, modulo C, reach every wrong label once
        offset = generator.integers(wrong, 1) if self.k == 1 else generator.permutations(wrong)[:, : self.k]
        return (target.unsqueeze(1) + 1 + offset) % encoder.num_classes


class ShuffledLabels(RelabellingSource):
    """The image under another sample's label: labels are shuffled over the batch, as in the author's code.

    With C balanced classes about one "negative" in C keeps its true label, and pulls goodness the wrong way: use
    :class:`WrongLabels` unless the author's figures are to be rebuilt. The shuffle is over the batch of one process.
    """

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """One label per sample."""
        return target[generator.shuffle()].unsqueeze(1)


@contextlib.contextmanager
def model_for(source: Any, module: nn.Module | None) -> Iterator[nn.Module | None]:
    """Lend the network to a source that asks it (``uses_model``): in eval mode, its modes restored after."""
    if module is None or not getattr(source, "uses_model", False):
        yield None
        return
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield module
    finally:
        for part, mode in modes.items():
            part.training = mode
