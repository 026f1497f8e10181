"""A stack of units as a network: goodness of inputs, and a classifier that tries every label."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from intff_lightning.errors import ConfigurationError, DataError, check_choice
from intff_lightning.features import check_maps, check_pool, flat_features
from intff_lightning.functional import at_least_float32
from intff_lightning.label_tokens import default_encoder
from intff_lightning.labels import LabelEncoder, LabelledImages, LabelOverlay, NoLabel
from intff_lightning.modes import Freezable
from intff_lightning.network import Network, Predicted
from intff_lightning.pretext import Pretext, right_log_probability
from intff_lightning.pretrained import find_weights
from intff_lightning.recipe import from_recipe, to_recipe
from intff_lightning.samples import check_shape
from intff_lightning.sequences import TokenShape
from intff_lightning.stage import Stage
from intff_lightning.units import UnitStack
from intff_lightning.views import Views, check_views, mean_over_views

VoteWeights = list[float] | Literal["validation"]
"""Weights of the voting units, or where they come from."""
ShownLabels = Literal["all", "neutral"]
"""Labels under which :meth:`LabelClassifier.embed` reads an image."""


class LabelClassifier(Freezable, Network):
    """A stack of hidden units as a trained network.

    Called on plain images (float in [0, 1]) it tries every label, and the class is the label with the highest goodness
    (Tang 2023, section 3.4). In shapes, B is the number of images, C of classes and U of units.

    The arguments are those of :class:`~intff_lightning.module.IntFFModule`; ``parts`` are the units' defaults by name.
    """

    fitted_vote: Tensor
    """Weights fitted on validation data, ``(len(vote),)``; there are none without ``vote_weights: validation``."""

    def __init__(
        self,
        units: list[Any],
        encoder: LabelEncoder | None,
        parts: dict[str, nn.Module | None],
        vote: list[int] | None,
        vote_weights: VoteWeights | None,
        sweep_size: int | None,
        views: Views | None,
        pretext: Pretext | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if sweep_size is not None and sweep_size < 1:
            raise ConfigurationError(f"sweep_size={sweep_size} must be 1 or more.")
        self.units = UnitStack(units, **parts)
        if vote is not None and (not vote or not set(vote) <= {*range(len(self.units))} or len({*vote}) < len(vote)):
            raise ConfigurationError(
                f"vote={vote}: units are numbered 0 to {len(self.units) - 1}, and one or more of them vote, each once."
            )
        kinds = {unit.goodness.by_class for unit in self.units}
        if len(kinds) > 1:
            raise ConfigurationError("goodness by class (ChannelGoodness) is for all units, or for none of them.")
        self.by_class = kinds == {True}
        encoder = from_recipe(encoder)
        if self.by_class and encoder is not None and encoder.shows_label:
            raise ConfigurationError(
                f"goodness by class is for images without a label: leave the encoder ({type(encoder).__name__}) out."
            )
        if sweep_size is not None and (self.by_class or not (encoder is None or encoder.shows_label)):
            raise ConfigurationError(
                "sweep_size has no effect: images show no label, so each is read once. Leave it out."
            )
        self._chooses_encoder = encoder is None and not self.by_class
        self.encoder: LabelEncoder = encoder or (NoLabel() if self.by_class else LabelOverlay())
        self._vote, self._vote_weights = vote, vote_weights
        if self.fits_votes:
            self.register_buffer("fitted_vote", torch.ones(len(self.vote)))
        elif vote_weights is not None and (
            isinstance(vote_weights, str)
            or not all(0 <= weight < math.inf for weight in vote_weights)
            or not any(vote_weights)
        ):
            raise ConfigurationError(
                f"vote_weights={vote_weights}: validation, or numbers of 0 or more and not all 0, are needed."
            )
        self.vote_weights()  # refuses a wrong number of them
        self.sweep_size, self.views = sweep_size, from_recipe(views)
        self.pretext: Pretext | None = from_recipe(pretext)
        if self.pretext is not None and not self.by_class:
            raise ConfigurationError("pretext gives images a class: it needs goodness by class, such as LinearHead.")
        if self.pretext is not None and self.fits_votes:
            raise ConfigurationError(
                "vote_weights=validation fits votes to labels, and pretext reads none: leave it out."
            )
        self.stage: Stage | None = None
        """The part of the network that this process holds, if it is trained by several processes in a pipeline."""

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Return a trained network that comes with the package, in eval mode on the CPU.

        To fine-tune it, call ``train()`` first; optimizers and schedules begin anew.

        Args:
            name: Its name, see :mod:`intff_lightning.pretrained`.
        """
        module: Self = cls.load_from_checkpoint(find_weights(name), map_location="cpu")
        return module.eval()

    @property
    def own_units(self) -> range:
        """Numbers of the units that this process holds: all of them, unless it is a stage of a pipeline."""
        return range(len(self.units)) if self.stage is None else self.stage.units

    @property
    def vote(self) -> list[int]:
        """Numbers of the units whose goodness is summed to classify."""
        if self._vote is None:
            return list(range(len(self.units)))
        if max(self._vote) >= len(self.units):
            raise ConfigurationError(f"vote={self._vote}, and only units 0 to {len(self.units) - 1} are left to vote.")
        return list(self._vote)

    @property
    def fits_votes(self) -> bool:
        """Whether the weights of the voting units are fitted on validation data."""
        return self._vote_weights == "validation"

    def vote_weights(self) -> Tensor | None:
        """Return the weights of the voting units, ``(len(vote),)`` float32; ``None`` counts all of them alike."""
        if self._vote_weights is None:
            return None
        weights = self.fitted_vote if self.fits_votes else torch.tensor(self._vote_weights, dtype=torch.float32)
        if len(weights) != len(self.vote):
            raise ConfigurationError(f"there are {len(weights)} vote_weights for the {len(self.vote)} voting units.")
        return weights

    def count_votes(self, goodness: Tensor) -> Tensor:
        """Sum the goodness ``(U, *)`` of all units over those that vote, with their weights; returns ``(*)``."""
        voting, weights = goodness[self.vote], self.vote_weights()
        if weights is None:
            return voting.sum(0)
        return (weights.to(voting).view(-1, *[1] * (voting.ndim - 1)) * voting).sum(0)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Choose the encoder if none was given, and prepare it and the units; see :meth:`Network.build`."""
        if self._chooses_encoder:
            self.encoder = default_encoder(input_shape)
            self.hparams["encoder"] = to_recipe(self.encoder)
        if isinstance(input_shape, TokenShape) and not self.encoder.takes_tokens:
            raise ConfigurationError(
                f"{type(self.encoder).__name__} cannot take token sequences: use LabelPrefix, or goodness by class."
            )
        check_views(self.views, input_shape)
        self.encoder.setup(input_shape, num_classes)
        classes = num_classes
        if self.pretext is not None:
            classes = self.pretext.classes_for(input_shape)
        self.units.setup(self.encoder.output_shape, classes)

    def freeze(self) -> Self:
        """Freeze all parameters, also those that are made later, and put the network into eval mode."""
        super().freeze()
        return self.requires_grad_(False)

    def unfreeze(self) -> Self:
        """Undo :meth:`freeze`, and put the network into training mode."""
        super().unfreeze()
        return self.requires_grad_(True)

    @property
    def unsupervised(self) -> bool:
        """Whether it is trained without labels, and so knows none of the classes of the data."""
        return self.pretext is not None or (not self.by_class and not self.encoder.shows_label)

    @property
    def predicts(self) -> Predicted:
        """What it predicts."""
        return "anomaly scores" if self.unsupervised else "classes"

    def goodness(self, x: Tensor | LabelledImages, first: int | None = None) -> Tensor:
        """Return the goodness of every unit for inputs ``(B, *)`` that carry a label: ``(U, B)``, or ``(U, B, C)``.

        With ``first``, only the first so many units are computed, except in a pipeline, where all are.
        """
        self.check_built()
        if self.stage is not None:
            return torch.stack(self.stage.relay(x, self._goodness_of, len(self.units), alike=True))
        all_units = first is None or first == len(self.units)  # then hooks, as of summaries, see the inputs alone
        goodness: Tensor = self.units(x) if all_units else self.units(x, first)
        return goodness

    def _goodness_of(self, k: int, x: Any) -> tuple[Tensor, list[Tensor]]:
        h = self.units[k](x)
        return h, [at_least_float32(self.units[k].goodness(h))]

    def positive_probability(self, x: Tensor) -> Tensor:
        r"""Return the probability that inputs are positive data (the paper's likelihood, section 3.1).

        .. math:: p = \sigma\Bigl(\sum_\text{voting units} (g_k - \theta_k)\Bigr)

        The threshold :math:`\theta_k` is that of unit k's own loss. With one unit this is the paper's formula. With
        several units the paper subtracts a single threshold from the sum of all goodness, so that units that are all
        exactly at their thresholds would not give one half.

        Args:
            x: Inputs that carry a label, ``(B, *)``.

        Returns:
            ``(B,)``, or ``(B, C)`` by class.

        Raises:
            ConfigurationError: The loss of a voting unit has no threshold.
        """
        thresholds = {k: self.units[k].loss.threshold for k in self.vote}
        for k, threshold in thresholds.items():
            if threshold is None:
                raise ConfigurationError(
                    f"unit_{k} has no threshold above which data is positive: its loss, "
                    f"{type(self.units[k].loss).__name__}, has none.\n"
                    "Compare the goodness of labels instead (label_goodness), or train with SoftplusLoss."
                )
        if self._vote_weights is not None:
            raise ConfigurationError("positive_probability is of the plain sum of goodness: leave vote_weights out.")
        goodness = self.goodness(x)
        above = [goodness[k] - threshold for k, threshold in thresholds.items() if threshold is not None]
        return torch.sigmoid(torch.stack(above).sum(0))

    def anomaly_score(self, image: Tensor) -> Tensor:
        r"""Return how anomalous images ``(B, *)`` are, ``(B,)``: minus the log-odds that they are positive data.

        .. math:: s = \sum_\text{voting units} w_k (\theta_k - g_k)

        With a ``pretext``, the goodness is the mean log-probability of the right classes of the changed images (Golan
        and El-Yaniv 2018).

        A loss without a threshold counts as :math:`\theta = 0`. With a ``pretext``, all of them do. If the network
        knows labels, the score is the least one of all labels. In eval mode, the goodness is averaged over ``views``.

        :math:`\sigma(-s)` is :meth:`positive_probability` if the losses have thresholds, the vote is plain, and there
        are neither views nor a pretext.
        """
        self._check_image(image)
        if self.unsupervised:
            return self._below_thresholds(self._goodness_without_labels(image))
        return self._below_thresholds(self.label_goodness(image)).amin(1)

    def _goodness_without_labels(self, image: Tensor) -> Tensor:
        """Return the goodness of images ``(B, *)`` as positive data, ``(U, B)``."""
        if self.pretext is None:
            return self._over_views(self.goodness, image)
        shown, kind = self.pretext(image)
        # a len would fix the size in exported programs
        return right_log_probability(self._over_views(self.goodness, shown), kind, image.shape[0])

    def _below_thresholds(self, goodness: Tensor) -> Tensor:
        """Return how far the vote of goodness ``(U, B, *)`` is below that of the thresholds, ``(B, *)``."""
        own = [unit.loss.threshold or 0.0 if self.pretext is None else 0.0 for unit in self.units]
        thresholds = goodness.new_tensor(own)
        return self.count_votes(thresholds.view(-1, *[1] * (goodness.ndim - 1)) - goodness)

    def predictions(self, image: Tensor) -> Tensor:
        """Return the scores ``(B, C)``; without labels, the anomaly score and the goodness of units, ``(B, 1 + U)``."""
        if not self.unsupervised:
            return super().predictions(image)
        self._check_image(image)
        goodness = self._goodness_without_labels(image)
        return torch.cat([self._below_thresholds(goodness).unsqueeze(0), goodness]).T

    def label_goodness(self, image: Tensor, first: int | None = None) -> Tensor:
        """Return the goodness of every unit for each image ``(B, *)`` under each label, ``(U, B, C)``.

        In eval mode it is averaged over the ``views`` of the image.

        Args:
            image: ``(B, *)``.
            first: Compute the first so many units; see :meth:`goodness`.

        Raises:
            ConfigurationError: The network was trained without labels.
        """
        if self.unsupervised:
            raise ConfigurationError(
                "this network was trained without labels: read it by a linear probe (callbacks.LinearProbe, embed)."
            )
        self._check_image(image)
        return self._over_views(lambda view: self._under_labels(view, first), image)

    def _under_labels(self, image: Tensor, first: int | None) -> Tensor:
        if self.by_class:
            return self.goodness(image, first)
        return self._sweep(image, lambda x: self.goodness(x, first).T).permute(2, 0, 1)

    def _over_views(self, read: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Average what is read from images over their views, in eval mode."""
        return mean_over_views(read, image, None if self.training else self.views)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores ``(B, C)`` of images ``(B, *)``: the (weighted) sum of the voting units' goodness.

        Units after the last one that votes are not computed.
        """
        return self.count_votes(self.label_goodness(image, max(self.vote) + 1))

    def embed(
        self,
        image: Tensor,
        label: ShownLabels = "all",
        hidden: bool = False,
        normalize: bool = False,
        pool: int | None = None,
    ) -> Tensor:
        """Return features for a linear probe: the activations of the units, flattened and concatenated.

        Args:
            image: ``(B, *)``.
            label: ``all`` shows every label in turn and keeps all activations; ``neutral`` shows none.
            hidden: Take the activations of every layer, not only of the output neurons.
            normalize: Divide the activations of each unit (with ``hidden``, of each layer) by their root mean square,
                as Hinton (2022) does for unsupervised training. This removes the goodness.
            pool: Average maps ``(C, H, W)`` over patches first: at most ``pool`` x ``pool`` positions are left.

        Returns:
            ``(B, features)``; ``label="all"`` gives C times as many features if the encoder shows labels.
        """
        check_choice("label", label, ShownLabels)
        check_pool(pool)
        self._check_image(image)
        dimensions: list[int] = []

        def features_of(k: int, x: Any) -> tuple[Tensor, list[Tensor]]:
            layers = self.units[k].activations(x) if hidden else [self.units[k](x)]
            dimensions.extend(h.ndim for h in layers)
            return layers[-1], flat_features(layers, normalize, pool)

        def read(x: Tensor | LabelledImages) -> Tensor:
            if self.stage is not None:
                return torch.cat(self.stage.relay(x, features_of, len(self.units), alike=False), dim=1)
            outputs: list[Tensor] = []
            for k in range(len(self.units)):
                x, features = features_of(k, x)
                outputs += features
            check_maps(pool, dimensions)
            return torch.cat(outputs, dim=1)

        if not self.encoder.shows_label:
            return read(image)
        return self._sweep(image, read).flatten(1) if label == "all" else read(self.encoder(image, None))

    def _check_image(self, image: Tensor) -> None:
        """Refuse images that are not floating point, or of another shape than the network was built for."""
        self.check_built()
        if image.is_floating_point() is (self.hparams["vocabulary"] is not None):
            if image.is_floating_point():
                raise DataError(f"token ids must be integers, not {image.dtype}.")
            raise DataError(f"images must be float in [0, 1], not {image.dtype}: image.float() / 255.")
        check_shape(image, self.hparams["input_shape"], type(self).__name__)

    def tried_labels(self, device: torch.device) -> Tensor:
        """Return the labels under which images are read, ``(C,)``: all classes."""
        return torch.arange(self.encoder.num_classes, device=device)

    def inputs_per_pass(self, device: torch.device) -> int:
        """Return ``sweep_size``, or by default what suits the device: on a CPU, activations should fit its caches."""
        return self.sweep_size or (640 if device.type == "cpu" else 8192)

    def _sweep(self, image: Tensor, read: Callable[[LabelledImages], Tensor]) -> Tensor:
        """Apply ``read`` to each image ``(B, *)`` under each label; returns ``(B, C, F)``.

        ``read`` maps N labelled images to ``(N, F)``. It gets a few images at a time, under all labels if these fit
        into one pass, so that a unit reads each image once.
        """
        labels = self.tried_labels(image.device)
        size = self.inputs_per_pass(image.device)
        # an exported or traced program takes batches of any size, so it must not depend on the size of this one
        traced = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        some = [image] if traced else torch.split(image, max(1, size // len(labels)))
        rows = []
        for images in some:
            found = []
            for chunk in torch.chunk(labels, -(-len(labels) // size)):
                part = read(LabelledImages(images, chunk.unsqueeze(0), self.encoder))
                found.append(part.reshape(len(chunk), -1, part.shape[1]))
            rows.append(torch.cat(found).transpose(0, 1))
        return torch.cat(rows)
