"""The three local parts of a hidden unit: normalization, goodness and local loss, each choosable per unit.

They are thin, configurable shells around :mod:`intff_lightning.functional`. A normalization is any module ``(B, *) ->
(B, *)``. Goodness functions and local losses derive from :class:`Goodness` and :class:`LocalLoss`.
"""

from collections.abc import Sequence

from torch import Tensor

from intff_lightning import functional as F
from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import RecordedModule
from intff_lightning.sequences import PaddedShape, length_ratio

GoodnessPair = tuple[Tensor, Tensor | None]
"""Positive goodness ``(B,)`` and negative goodness ``(B, k)``; ``None`` if there are no negatives."""
Earlier = GoodnessPair | None
"""Summed goodness of the earlier units; ``None`` for the first unit."""


class ScaleNormalization(RecordedModule):
    """Base of normalizations that scale each sample by a factor that depends on its L2 norm alone.

    Args:
        gain: Size of the result, in the measure of the subclass.
        eps: Keeps samples that are all zero at zero.
    """

    def __init__(self, gain: float, eps: float) -> None:
        super().__init__()
        if not gain > 0 or not eps >= 0:
            raise ConfigurationError(
                f"{type(self).__name__}(gain={gain}, eps={eps}): gain > 0 and eps >= 0 are needed."
            )
        self.gain, self.eps = gain, eps

    def scale(self, norm: Tensor, features: int | Tensor) -> Tensor:
        """Return the factor ``(B, 1)`` by which ``forward`` scales samples with the L2 norm ``(B, 1)``.

        Args:
            norm: L2 norms, ``(B, 1)``, in float32 at least.
            features: Number of features per sample; ``(B, 1)`` if samples differ in it.
        """
        raise NotImplementedError


class UnitL2(ScaleNormalization):
    """The paper's input normalization, :func:`~intff_lightning.functional.unit_l2_normalize`.

    Args:
        gain: L2 norm of each normalized sample.
        eps: The paper's 1e-4, added to the norm.
    """

    def __init__(self, gain: float = 1.0, eps: float = 1e-4) -> None:
        super().__init__(gain, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.unit_l2_normalize(x, self.gain, self.eps)

    def scale(self, norm: Tensor, features: int | Tensor) -> Tensor:
        return self.gain / (norm + self.eps)


class RMS(ScaleNormalization):
    """Root-mean-square normalization, :func:`~intff_lightning.functional.rms_normalize`.

    Args:
        gain: Root mean square of each normalized sample.
        eps: Added to the mean square.
    """

    def __init__(self, gain: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__(gain, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_normalize(x, self.gain, self.eps)

    def scale(self, norm: Tensor, features: int | Tensor) -> Tensor:
        return self.gain * (norm.square() / features + self.eps).rsqrt()


class GroupNormalization(RecordedModule):
    """Normalizes each group of channels, :func:`~intff_lightning.functional.group_normalize`; nothing is learned.

    It belongs to :class:`MeanActivation`, whose paper uses one group per class.

    Args:
        groups: Number of groups, which divides the number of channels. 1 is layer normalization. An input with fewer
            channels, such as an image, is one group.
        eps: Added to the variance.
    """

    def __init__(self, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        if groups < 1 or not eps > 0:
            raise ConfigurationError(f"GroupNormalization(groups={groups}, eps={eps}): 1 or more, and above 0.")
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_normalize(x, self.groups if x.shape[1] >= self.groups else 1, self.eps)


class NoNormalization(RecordedModule):
    """Leaves the input as it is. A unit can then raise its goodness merely by passing on the length of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Goodness(RecordedModule):
    """Base of goodness functions: implement ``forward``."""

    by_class: bool = False
    """Whether ``forward`` returns ``(B, C)``, one goodness per class, for images that show no label."""
    num_classes: int = 0
    """Number of classes, known after :meth:`setup`."""
    reads_padding: bool = False
    """Whether padded positions, which are zero, do not count; activations with them are refused otherwise."""
    padded: bool = False
    """Whether activations have padded positions, known after :meth:`setup`."""

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Prepare for activations of one shape. The unit calls this once.

        Args:
            input_shape: Shape of one sample's activations.
            num_classes: Number of classes.

        Raises:
            ConfigurationError: The goodness cannot be computed from such activations.
        """
        self.num_classes, self.padded = num_classes, isinstance(input_shape, PaddedShape)
        if self.padded and not self.reads_padding:
            raise ConfigurationError(
                f"hands over sequences with padding, which {type(self).__name__} would count: use MeanSquares, "
                "ChannelGoodness or LinearHead."
            )

    def counted(self, mean: Tensor, h: Tensor) -> Tensor:
        """Turn a mean ``(B, *)`` over all positions of ``h`` into that over the positions that are no padding."""
        return mean * length_ratio(h).view(-1, *[1] * (mean.ndim - 1)) if self.padded else mean

    def forward(self, h: Tensor) -> Tensor:
        """Map activations ``(B, *)`` to goodness ``(B,)``, or ``(B, C)`` by class, in float32 at least."""
        raise NotImplementedError


class MeanSquares(Goodness):
    """The paper's goodness, :func:`~intff_lightning.functional.goodness`.

    Args:
        selected: Indices of the output neurons that count, in the flattened output; ``None`` selects all.
    """

    def __init__(self, selected: Sequence[int] | None = None) -> None:
        super().__init__()
        if selected is not None and (not selected or min(selected) < 0):
            raise ConfigurationError(f"selected={list(selected)}: give indices of output neurons, 0 or more.")
        self.selected = None if selected is None else list(selected)
        self.reads_padding = selected is None

    def forward(self, h: Tensor) -> Tensor:
        return self.counted(F.goodness(h, self.selected), h)


class SumSquares(Goodness):
    """Hinton's goodness (2022): the sum of squares. Its threshold must grow with the number of neurons."""

    reads_padding = True

    def forward(self, h: Tensor) -> Tensor:
        return F.goodness(h) * h[0].numel()


class TopGoodness(Goodness):
    """Mean square of the most active neurons, :func:`~intff_lightning.functional.top_goodness`.

    Args:
        share: Share of the neurons that count, above 0 and up to 1.
    """

    def __init__(self, share: float = 0.25) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ConfigurationError(f"TopGoodness(share={share}): a share of the neurons is needed, 0 < share <= 1.")
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        return F.top_goodness(h, max(1, round(self.share * int(h[0].numel()))))


class ChannelGoodness(Goodness):
    """Goodness by class: each class has its own channels, :func:`~intff_lightning.functional.channel_goodness`.

    Images show no label. The goodness of the true class is the positive one, and those of the other classes are the
    negatives, for the same image in one pass. Every loss of this module accepts them, and ``module(image)`` needs one
    pass instead of C.
    """

    by_class = True
    reads_padding = True

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        _check_channels(self, input_shape, num_classes)
        super().setup(input_shape, num_classes)

    def forward(self, h: Tensor) -> Tensor:
        return self.counted(F.channel_goodness(h, self.num_classes), h)


class MeanActivation(Goodness):
    """Mean activation without the square, :func:`~intff_lightning.functional.mean_activation` (DeeperForward).

    Use it with ``normalization: GroupNormalization`` and ``LabelCrossEntropy``.

    Args:
        by_class: Give each class its own channels, as :class:`ChannelGoodness` does; else labels are in the image.
    """

    reads_padding = True

    def __init__(self, by_class: bool = True) -> None:
        super().__init__()
        self.by_class = by_class

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if self.by_class:
            _check_channels(self, input_shape, num_classes)
        super().setup(input_shape, num_classes)

    def forward(self, h: Tensor) -> Tensor:
        return self.counted(F.mean_activation(h, self.num_classes if self.by_class else None), h)


def _check_channels(goodness: Goodness, input_shape: tuple[int, ...], num_classes: int) -> None:
    channels = input_shape[1] if len(input_shape) == 2 else input_shape[0]  # tokens (T, D), else channels first
    if channels < num_classes:
        name = type(goodness).__name__
        raise ConfigurationError(
            f"has {channels} channels for the {num_classes} classes of {name}: it needs one per class."
        )


class LocalLoss(RecordedModule):
    """Base of local losses: what one unit minimizes, computed from goodness alone."""

    threshold: float | None = None
    """Goodness above which data counts as positive; ``None`` for losses that compare goodness with none."""
    separable: bool = False
    """Whether the gradient by a goodness depends on no other goodness, so that it is known before the others are.

    A class with a ``forward`` of its own does not inherit it.
    """

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, earlier: Earlier) -> Tensor:
        """Compute the scalar loss of one unit.

        Args:
            positive: Goodness of the positive data, ``(B,)``.
            negative: Goodness of the negative data, ``(B, k)``, or ``None``.
            target: True classes, ``(B,)``.
            earlier: Positive and negative goodness of the earlier units, summed and detached, for losses in which
                layers collaborate; ``None`` for the first unit.
        """
        raise NotImplementedError


class SoftplusLoss(LocalLoss):
    """The paper's loss, :func:`~intff_lightning.functional.softplus_loss`.

    Args:
        threshold: The paper's theta.
    """

    threshold: float
    separable = True

    def __init__(self, threshold: float = 1.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, earlier: Earlier) -> Tensor:
        return F.softplus_loss(positive, negative, self.threshold)


class SymBaLoss(LocalLoss):
    """Positive goodness above negative goodness, :func:`~intff_lightning.functional.symba_loss`.

    Args:
        alpha: Steepness.
    """

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise ConfigurationError(f"SymBaLoss(alpha={alpha}): a number above 0 is needed.")
        self.alpha = alpha

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, earlier: Earlier) -> Tensor:
        return F.symba_loss(positive, _needed(self, negative), self.alpha)


class LabelCrossEntropy(LocalLoss):
    r"""Tells the true label of an image from wrong ones, :func:`~intff_lightning.functional.label_cross_entropy`.

    .. math::
        L = (1 - w) \, L_\text{cross-entropy}\bigl((g + c \, g_\text{earlier}) / T\bigr) + w \, L_\text{softplus}(g)

    A prediction is the label with the highest goodness; this loss trains that comparison. The paper's loss beside it
    keeps goodness near the threshold.

    Args:
        threshold: Theta of the softplus part.
        threshold_weight: w, from 0 to 1. With 0 the loss has no threshold.
        collaboration: c, the weight of the earlier units' goodness (layer collaboration, Lorberbom et al. 2024). With 1
            a unit learns what the earlier units leave undone, which suits a vote of all units.
        temperature: T. Below 1, small differences in goodness tell labels apart, as normalized layers produce them.
    """

    def __init__(
        self,
        threshold: float = 1.5,
        threshold_weight: float = 0.5,
        collaboration: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= threshold_weight <= 1:
            raise ConfigurationError(f"LabelCrossEntropy(threshold_weight={threshold_weight}): from 0 to 1 is needed.")
        if temperature <= 0:
            raise ConfigurationError(f"LabelCrossEntropy(temperature={temperature}): a number above 0 is needed.")
        if not threshold_weight and threshold != 1.5:  # configs give the default too
            raise ConfigurationError(
                f"LabelCrossEntropy(threshold={threshold}) has no effect with threshold_weight=0: leave threshold out."
            )
        self.threshold = threshold if threshold_weight else None
        self.threshold_weight, self.collaboration, self.temperature = threshold_weight, collaboration, temperature

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, earlier: Earlier) -> Tensor:
        positive, negative = F.at_least_float32(positive), F.at_least_float32(_needed(self, negative))
        softplus = None if self.threshold is None else F.softplus_loss(positive, negative, self.threshold)
        if earlier is not None and self.collaboration:
            positive = positive + self.collaboration * earlier[0]
            negative = negative + self.collaboration * _needed(self, earlier[1])
        if self.temperature != 1:
            positive, negative = positive / self.temperature, negative / self.temperature
        cross_entropy = F.label_cross_entropy(positive, negative)
        if softplus is None:
            return cross_entropy
        return (1 - self.threshold_weight) * cross_entropy + self.threshold_weight * softplus


def _needed(loss: LocalLoss, negative: Tensor | None) -> Tensor:
    if negative is None:
        raise ConfigurationError(f"{type(loss).__name__} compares pairs, and the negative source gives no negatives.")
    return negative
