"""A stack of units as a network: goodness of labelled inputs, and a classifier that tries every label."""

from collections.abc import Callable, Iterator
from typing import Literal, cast

import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import rms_normalize
from intff_lightning.labels import LabelEncoder, LabelledImages
from intff_lightning.units import UnitStack

__all__ = ["LabelClassifier"]


def _check_float(image: Tensor) -> None:
    if not image.is_floating_point():
        raise DataError(f"images must be float in [0, 1], not {image.dtype}: image.float() / 255.")


class LabelClassifier:
    """Mixin for modules with ``units``, an ``encoder``, the units that ``vote``, and a ``sweep_size``.

    Called on plain images (float in [0, 1]) it tries every label: the class is the one of highest goodness
    (section 3.4 of the paper). Shapes: B images, C classes, U units.
    """

    units: UnitStack
    encoder: LabelEncoder
    vote: list[int]
    sweep_size: int | None
    by_class: bool

    @property
    def unsupervised(self) -> bool:
        """Whether the network has seen no labels, and knows of no classes."""
        return not self.by_class and not self.encoder.shows_label

    def _activations(self, x: Tensor | LabelledImages) -> Iterator[Tensor]:
        h = x
        for unit in self.units:
            h = unit(h)
            yield cast(Tensor, h)

    def goodness(self, x: Tensor | LabelledImages) -> Tensor:
        """Goodness of every unit, ``(U, B)``, on inputs ``(B, *)`` that carry a label; by class ``(U, B, C)``."""
        return torch.stack([unit.goodness(h) for unit, h in zip(self.units, self._activations(x), strict=True)])

    def positive_probability(self, x: Tensor, threshold: float = 1.5) -> Tensor:
        r"""Probability that inputs are positive data (the paper's likelihood, section 3.1).

        .. math:: p = \sigma\bigl(\textstyle\sum_\text{units} g - \theta\bigr)

        Args:
            x: ``(B, *)`` inputs that carry a label.
            threshold: the paper's theta.

        Returns:
            ``(B,)``, by class ``(B, C)``; the voting units count.
        """
        return torch.sigmoid(self.goodness(x)[self.vote].sum(0) - threshold)

    def inputs_at_a_time(self, device: torch.device) -> int:
        """``sweep_size``, or what suits the device: few enough that a CPU's caches hold their activations."""
        return self.sweep_size or (640 if device.type == "cpu" else 8192)

    def _sweep(self, image: Tensor, read: Callable[[LabelledImages], Tensor]) -> Tensor:
        """What ``read`` finds for every image ``(B, *)`` under every label, ``(B, C, F)``.

        It maps N labelled images to ``(N, F)``, and is given some images under some labels at a time: under all of
        them where they fit, so that a unit reads an image once.
        """
        _check_float(image)
        labels = torch.arange(self.encoder.num_classes, device=image.device)
        size = self.inputs_at_a_time(image.device)
        # an exported program takes batches of any size, and must not choose by it
        some = [image] if torch.compiler.is_exporting() else torch.split(image, max(1, size // len(labels)))
        rows = []
        for images in some:
            found = []
            for run in torch.chunk(labels, -(-len(labels) // size)):
                part = read(LabelledImages(images, run.unsqueeze(0), self.encoder))
                found.append(part.reshape(len(run), -1, part.shape[1]))
            rows.append(torch.cat(found).transpose(0, 1))
        return torch.cat(rows)

    def label_goodness(self, image: Tensor) -> Tensor:
        """Goodness of every unit for every image ``(B, *)`` under every label, ``(U, B, C)``.

        Raises:
            ConfigurationError: the network was trained without labels.
        """
        if self.unsupervised:
            raise ConfigurationError(
                "this network was trained without labels: read it by a linear probe (callbacks.LinearProbe, embed)."
            )
        if self.by_class:
            _check_float(image)
            return self.goodness(image)
        return self._sweep(image, lambda x: self.goodness(x).T).permute(2, 0, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Scores ``(B, C)`` of images ``(B, *)``: the voting units' goodness, summed; the class is its argmax."""
        return self.label_goodness(image)[self.vote].sum(0)

    def embed(
        self, image: Tensor, label: Literal["all", "neutral"] = "all", hidden: bool = False, normalize: bool = False
    ) -> Tensor:
        """Features for a linear probe: the units' outputs, flattened and concatenated.

        Args:
            image: ``(B, *)``.
            label: ``all`` shows every label in turn and keeps all outputs; ``neutral`` shows none.
            hidden: take the activations of every layer, not only of the output neurons.
            normalize: divide each unit's (with ``hidden``, each layer's) activations by their root mean square, as
                Hinton (2022) does for unsupervised training; goodness is gone then.

        Returns:
            ``(B, features)``, times C for ``label="all"`` where labels are shown.
        """

        def read(x: Tensor | LabelledImages) -> Tensor:
            outputs: list[Tensor] = []
            for unit in self.units:
                layers = unit.layers(x) if hidden else [unit(x)]
                outputs += [rms_normalize(h) if normalize else h for h in (layer.flatten(1) for layer in layers)]
                x = layers[-1]
            return torch.cat(outputs, dim=1)

        if not self.encoder.shows_label:
            return read(image)
        return self._sweep(image, read).flatten(1) if label == "all" else read(self.encoder(image, None))
