"""The three local parts of a hidden unit, each choosable per unit: normalization, goodness, local loss.

They are thin, configurable shells around :mod:`intff_lightning.functional`. A normalization is any module ``(B, *) ->
(B, *)``; a goodness is any module ``(B, *) -> (B,)``; a local loss is a module with the signature of
:meth:`LocalLoss.forward`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from intff_lightning import functional as F
from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import Recorded

__all__ = [
    "RMS",
    "ChannelGoodness",
    "Goodness",
    "LabelCrossEntropy",
    "LocalLoss",
    "MeanSquares",
    "NoNormalization",
    "ScaleNormalization",
    "SoftplusLoss",
    "SumSquares",
    "SymBaLoss",
    "TopGoodness",
    "UnitL2",
]


Others = tuple[Tensor, Tensor | None] | None
"""Positive ``(B,)`` and negative ``(B, k)`` goodness of the units before, as :meth:`LocalLoss.forward` gets it."""


class ScaleNormalization(Recorded, nn.Module):
    """Base of normalizations that scale each sample by a factor of its L2 norm alone.

    Args:
        gain: size of the result, in the measure of the subclass.
        eps: keeps samples that are all zero at zero.
    """

    def __init__(self, gain: float, eps: float) -> None:
        super().__init__()
        self.gain, self.eps = gain, eps

    def scale(self, norm: Tensor, features: int) -> Tensor:
        """Factor ``(B, 1)`` by which ``forward`` scales samples of this L2 norm ``(B, 1)``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"gain={self.gain:g}, eps={self.eps:g}"


class UnitL2(ScaleNormalization):
    """The paper's input normalization, :func:`~intff_lightning.functional.unit_l2_normalize`.

    Args:
        gain: L2 norm of the unit's input after it.
        eps: the paper's 1e-4.
    """

    def __init__(self, gain: float = 1.0, eps: float = 1e-4) -> None:
        super().__init__(gain, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(B, *)``."""
        return F.unit_l2_normalize(x, self.gain, self.eps)

    def scale(self, norm: Tensor, features: int) -> Tensor:
        """See :meth:`ScaleNormalization.scale`."""
        return self.gain / (norm + self.eps)


class RMS(ScaleNormalization):
    """Root-mean-square normalization, :func:`~intff_lightning.functional.rms_normalize`.

    Args:
        gain: root mean square of the unit's input after it.
        eps: added to the mean square.
    """

    def __init__(self, gain: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__(gain, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(B, *)``."""
        return F.rms_normalize(x, self.gain, self.eps)

    def scale(self, norm: Tensor, features: int) -> Tensor:
        """See :meth:`ScaleNormalization.scale`."""
        return self.gain * (norm.square() / features + self.eps).rsqrt()


class NoNormalization(Recorded, nn.Module):
    """Leaves the input alone. A unit can then raise its goodness by the length of its input: know what you do."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


class Goodness(Recorded, nn.Module):
    """Base of goodness functions."""

    by_class: bool = False
    """Whether it gives ``(B, C)``, a goodness for every class, of images that show no label."""
    num_classes: int = 0
    """Set by the module before the first call."""

    def forward(self, h: Tensor) -> Tensor:
        """Map activations ``(B, *)`` to goodness ``(B,)``, float32 at least."""
        raise NotImplementedError


class MeanSquares(Goodness):
    """The paper's goodness, :func:`~intff_lightning.functional.goodness`.

    Args:
        selected: indices into the unit's flattened output; ``None`` takes all of it.
    """

    def __init__(self, selected: Sequence[int] | None = None) -> None:
        super().__init__()
        if selected is not None and (not selected or min(selected) < 0):
            raise ConfigurationError(f"selected={list(selected)}: indices of output neurons are needed, from 0 on.")
        self.selected = None if selected is None else list(selected)

    def forward(self, h: Tensor) -> Tensor:
        """Mean square of the selected neurons of ``(B, *)``, ``(B,)``."""
        return F.goodness(h, self.selected)


class SumSquares(Goodness):
    """Hinton's goodness (2022): the sum of squares, where a threshold is in proportion to the number of neurons."""

    def forward(self, h: Tensor) -> Tensor:
        """Sum of squares of ``(B, *)``, ``(B,)``."""
        return F.goodness(h) * h[0].numel()


class TopGoodness(Goodness):
    """Mean square of the neurons that fire most, :func:`~intff_lightning.functional.top_goodness`.

    Args:
        share: of the neurons, above 0 and up to 1.
    """

    def __init__(self, share: float = 0.25) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ConfigurationError(f"TopGoodness(share={share}): a share of the neurons is needed, 0 < share <= 1.")
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        """Of ``(B, *)``, ``(B,)``."""
        return F.top_goodness(h, max(1, round(self.share * h[0].numel())))


class ChannelGoodness(Goodness):
    """A goodness for every class, from its own channels, :func:`~intff_lightning.functional.channel_goodness`.

    Images then show no label: the goodness of the true class is the positive one, those of the others are negatives,
    for the same image and in one pass. Any loss of this file takes them; ``module(image)`` needs one pass, not C.
    """

    by_class = True

    def forward(self, h: Tensor) -> Tensor:
        """Of ``(B, D)``, ``(B, D, H, W)`` or ``(B, T, D)``, ``(B, C)``."""
        channels = h.shape[-1] if h.ndim == 3 else h.shape[1]
        if channels < self.num_classes:
            raise ConfigurationError(
                f"has {channels} channels for the {self.num_classes} classes of ChannelGoodness: one a class is needed."
            )
        return F.channel_goodness(h, self.num_classes)


class LocalLoss(Recorded, nn.Module):
    """Base of local losses: what one unit minimizes, from goodness alone."""

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, others: Others) -> Tensor:
        """Compute the scalar loss of one unit.

        Args:
            positive: ``(B,)`` goodness of positive data.
            negative: ``(B, k)`` goodness of negative data, or ``None``.
            target: ``(B,)`` true classes.
            others: positive and negative goodness of the units before this one, summed and detached, for losses in
                which layers collaborate; ``None`` for the first unit.
        """
        raise NotImplementedError


class SoftplusLoss(LocalLoss):
    """The paper's loss, :func:`~intff_lightning.functional.softplus_loss`.

    Args:
        threshold: the paper's theta.
    """

    def __init__(self, threshold: float = 1.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, others: Others) -> Tensor:
        """See :meth:`LocalLoss.forward`; target and other units play no part."""
        return F.softplus_loss(positive, negative, self.threshold)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"threshold={self.threshold:g}"


class SymBaLoss(LocalLoss):
    """Positive goodness above negative goodness, :func:`~intff_lightning.functional.symba_loss`.

    Args:
        alpha: steepness.
    """

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, others: Others) -> Tensor:
        """See :meth:`LocalLoss.forward`; negatives are needed."""
        if negative is None:
            raise ConfigurationError("SymBaLoss compares pairs, and the negative source gives no negatives.")
        return F.symba_loss(positive, negative, self.alpha)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"alpha={self.alpha:g}"


class LabelCrossEntropy(LocalLoss):
    r"""Tells an image's true label from wrong ones, :func:`~intff_lightning.functional.label_cross_entropy`.

    .. math::
        L = (1 - w) \, L_\text{cross-entropy}\bigl((g + c \, g_\text{others}) / T\bigr) + w \, L_\text{softplus}(g)

    Goodness is argmaxed over labels in the end: this is that comparison, learned. The paper's loss beside it keeps
    goodness about the threshold.

    Args:
        threshold: theta of the softplus part.
        threshold_weight: w, from 0 to 1.
        collaboration: c, how much of the goodness of the units before counts (layer collaboration, Lorberbom et al.
            2024): with 1 a unit learns what they have left undone, which suits a vote of all units.
        temperature: T; below 1 small differences of goodness tell labels apart, as normalized layers make them.
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
        self.threshold, self.threshold_weight, self.collaboration = threshold, threshold_weight, collaboration
        self.temperature = temperature

    def forward(self, positive: Tensor, negative: Tensor | None, target: Tensor, others: Others) -> Tensor:
        """See :meth:`LocalLoss.forward`; negatives are needed."""
        if negative is None:
            raise ConfigurationError("LabelCrossEntropy compares labels, and the negative source gives no negatives.")
        softplus = F.softplus_loss(positive, negative, self.threshold)
        if others is not None and self.collaboration:
            before, wrong_before = others
            assert wrong_before is not None  # the same batch has negatives
            positive, negative = positive + self.collaboration * before, negative + self.collaboration * wrong_before
        if self.temperature != 1:
            positive, negative = positive / self.temperature, negative / self.temperature
        cross_entropy = F.label_cross_entropy(positive, negative)
        return (1 - self.threshold_weight) * cross_entropy + self.threshold_weight * softplus

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return (
            f"threshold={self.threshold:g}, weight={self.threshold_weight:g}, collaboration={self.collaboration:g}, "
            f"temperature={self.temperature:g}"
        )
