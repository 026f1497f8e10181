"""A stack of units as a network: goodness of inputs, and a classifier that tries every label."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import rms_normalize
from intff_lightning.labels import LabelEncoder, LabelledImages, LabelOverlay, NoLabel
from intff_lightning.network import Network
from intff_lightning.recipe import from_recipe
from intff_lightning.units import UnitStack


def _check_float(image: Tensor) -> None:
    if not image.is_floating_point():
        raise DataError(f"images must be float in [0, 1], not {image.dtype}: image.float() / 255.")


class LabelClassifier(Network):
    """A stack of hidden units as a trained network.

    Called on plain images (float in [0, 1]) it tries every label, and the class is the label with the highest goodness
    (Tang 2023, section 3.4). In shapes, B is the number of images, C of classes and U of units.

    The arguments are those of :class:`~intff_lightning.module.IntFFModule`; ``parts`` are the units' defaults by name.
    """

    def __init__(
        self,
        units: list[Any],
        encoder: LabelEncoder | None,
        parts: dict[str, nn.Module | None],
        vote: list[int] | None,
        sweep_size: int | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if sweep_size is not None and sweep_size < 1:
            raise ConfigurationError(f"sweep_size={sweep_size} must be 1 or more.")
        self.units = UnitStack(units)
        if vote is not None and (not vote or not all(0 <= k < len(self.units) for k in vote)):
            raise ConfigurationError(f"vote={vote}: units are numbered 0 to {len(self.units) - 1}, one or more vote.")
        for unit in self.units:
            unit.use_defaults(**{name: from_recipe(part) for name, part in parts.items()})
        kinds = {unit.goodness.by_class for unit in self.units}
        if len(kinds) > 1:
            raise ConfigurationError("goodness by class (ChannelGoodness) is for all units, or for none of them.")
        self.by_class = kinds == {True}
        encoder = from_recipe(encoder)
        if self.by_class and encoder is not None and encoder.shows_label:
            raise ConfigurationError(
                f"goodness by class is for images without a label: leave the encoder ({type(encoder).__name__}) out."
            )
        self.encoder: LabelEncoder = encoder or (NoLabel() if self.by_class else LabelOverlay())
        self.vote = list(range(len(self.units))) if vote is None else list(vote)
        self.sweep_size = sweep_size

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Prepare the encoder and the units for one shape of images; see :meth:`Network.build`."""
        self.encoder.setup(input_shape, num_classes)
        shape = self.encoder.output_shape
        for k, unit in enumerate(self.units):
            try:
                unit.setup(shape, num_classes)
            except ConfigurationError as error:
                raise ConfigurationError(f"unit_{k} {error}") from None
            if not any(parameter.requires_grad for parameter in unit.parameters()):
                raise ConfigurationError(f"unit_{k} has no parameters to train: put its layers into another unit.")
            shape = unit.output_shape

    @property
    def unsupervised(self) -> bool:
        """Whether the network is trained without labels, and so knows no classes."""
        return not self.by_class and not self.encoder.shows_label

    def goodness(self, x: Tensor | LabelledImages) -> Tensor:
        """Return the goodness of every unit for inputs ``(B, *)`` that carry a label: ``(U, B)``, or ``(U, B, C)``."""
        goodness = []
        for unit in self.units:
            x = unit(x)
            goodness.append(unit.goodness(x))
        return torch.stack(goodness)

    def positive_probability(self, x: Tensor, threshold: float = 1.5) -> Tensor:
        r"""Return the probability that inputs are positive data (the paper's likelihood, section 3.1).

        .. math:: p = \sigma\bigl(\textstyle\sum_\text{units} g - \theta\bigr)

        Args:
            x: Inputs that carry a label, ``(B, *)``.
            threshold: The paper's theta.

        Returns:
            ``(B,)``, or ``(B, C)`` by class; the voting units count.
        """
        return torch.sigmoid(self.goodness(x)[self.vote].sum(0) - threshold)

    def label_goodness(self, image: Tensor) -> Tensor:
        """Return the goodness of every unit for each image ``(B, *)`` under each label, ``(U, B, C)``.

        Raises:
            ConfigurationError: The network was trained without labels.
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
        """Return the scores ``(B, C)`` of images ``(B, *)``: the summed goodness of the voting units."""
        return self.label_goodness(image)[self.vote].sum(0)

    def embed(
        self, image: Tensor, label: Literal["all", "neutral"] = "all", hidden: bool = False, normalize: bool = False
    ) -> Tensor:
        """Return features for a linear probe: the activations of the units, flattened and concatenated.

        Args:
            image: ``(B, *)``.
            label: ``all`` shows every label in turn and keeps all activations; ``neutral`` shows none.
            hidden: Take the activations of every layer, not only of the output neurons.
            normalize: Divide the activations of each unit (with ``hidden``, of each layer) by their root mean square,
                as Hinton (2022) does for unsupervised training. This removes the goodness.

        Returns:
            ``(B, features)``; ``label="all"`` gives C times as many features if the encoder shows labels.
        """

        def read(x: Tensor | LabelledImages) -> Tensor:
            outputs: list[Tensor] = []
            for unit in self.units:
                layers = unit.activations(x) if hidden else [unit(x)]
                outputs += [rms_normalize(h) if normalize else h for h in (layer.flatten(1) for layer in layers)]
                x = layers[-1]
            return torch.cat(outputs, dim=1)

        if not self.encoder.shows_label:
            return read(image)
        return self._sweep(image, read).flatten(1) if label == "all" else read(self.encoder(image, None))

    def inputs_per_pass(self, device: torch.device) -> int:
        """Return ``sweep_size``, or by default what suits the device: on a CPU, activations should fit its caches."""
        return self.sweep_size or (640 if device.type == "cpu" else 8192)

    def _sweep(self, image: Tensor, read: Callable[[LabelledImages], Tensor]) -> Tensor:
        """Apply ``read`` to each image ``(B, *)`` under each label; returns ``(B, C, F)``.

        ``read`` maps N labelled images to ``(N, F)``. It gets a few images at a time, under all labels if these fit
        into one pass, so that a unit reads each image once.
        """
        _check_float(image)
        labels = torch.arange(self.encoder.num_classes, device=image.device)
        size = self.inputs_per_pass(image.device)
        # an exported program takes batches of any size, so it must not depend on the size of this one
        some = [image] if torch.compiler.is_exporting() else torch.split(image, max(1, size // len(labels)))
        rows = []
        for images in some:
            found = []
            for chunk in torch.chunk(labels, -(-len(labels) // size)):
                part = read(LabelledImages(images, chunk.unsqueeze(0), self.encoder))
                found.append(part.reshape(len(chunk), -1, part.shape[1]))
            rows.append(torch.cat(found).transpose(0, 1))
        return torch.cat(rows)
