"""Regression: how a candidate for the target enters the input of the network, and what is read from its goodness."""

import math

import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.labels import LabelEncoder


class TargetFeatures(LabelEncoder):
    r"""A candidate v for the target of a regression, as F radial basis functions beside the sample.

    .. math:: \phi_i(v) = a \exp\Bigl(-\tfrac12 \bigl((F - 1) \, v - i\bigr)^2\Bigr), \qquad i = 0, \dots, F - 1

    Targets are scaled, so that those of the training data lie between 0 and 1. The features follow the columns of a
    table (D,), or are constant channels behind those of an image (C, H, W). They are zero under the neutral label.

    Args:
        features: F. More of them tell closer candidates apart.
        amplitude: a; the default suits standardized columns. ``None`` is the largest absolute value in the sample, but
            then a unit that normalizes its input cannot tell a sample from its double.
    """

    def __init__(self, features: int = 20, amplitude: float | None = 1.0) -> None:
        super().__init__()
        if features < 2 or amplitude == 0:
            raise ConfigurationError(
                f"TargetFeatures(features={features}, amplitude={amplitude}): 2 features or more, and an amplitude "
                "that is not 0, are needed."
            )
        self.features, self.amplitude = features, amplitude

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if len(input_shape) not in (1, 3):
            raise ConfigurationError(
                f"TargetFeatures needs the columns of a table (D,) or images (C, H, W), and these samples have shape "
                f"{tuple(input_shape)}: reshape them."
            )
        super().setup(input_shape, num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Put a candidate beside each sample.

        Args:
            image: ``(B, *)``.
            label: Scaled candidates ``(B,)``, floating point; ``None`` shows none.
        """
        if label is None:
            basis = image.new_zeros(image.shape[0], self.features)
        else:
            places = torch.arange(self.features, device=image.device)
            value = label.to(torch.promote_types(image.dtype, torch.float32)).unsqueeze(1)
            distance = (self.features - 1) * value - places
            basis = torch.exp(-0.5 * distance.square()).to(image.dtype)
            largest = image.flatten(1).abs().amax(1, keepdim=True)
            basis = basis * (largest if self.amplitude is None else self.amplitude)
        if image.ndim == 4:
            basis = basis[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return torch.cat([image, basis], dim=1)


def expected_value(scores: Tensor, candidates: Tensor) -> Tensor:
    r"""Return the mean of the softmax over candidates.

    .. math:: \hat y = \sum_c v_c \operatorname{softmax}(s)_c

    Args:
        scores: ``(*, C)``.
        candidates: ``(C,)``.

    Returns:
        ``(*)``, in float32 at least.

    >>> expected_value(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([1.0, 3.0]))
    tensor([2., 1.])
    """
    probability = at_least_float32(scores).softmax(-1)
    value: Tensor = probability @ candidates.to(probability)
    return value


def quantile(scores: Tensor, candidates: Tensor, level: float) -> Tensor:
    r"""Return a quantile of the softmax over candidates, linear between them.

    Half of a candidate's probability counts as below it. If candidates without probability share the level, the result
    is the lowest of them: the median of two equal peaks with a gap between them is the lower end of the gap.

    Args:
        scores: ``(B, C)``.
        candidates: ``(C,)``, in rising order.
        level: Level of the quantile, from 0 to 1.

    Returns:
        ``(B,)`` float32.

    >>> quantile(torch.zeros(1, 5), torch.arange(5.0), 0.5)
    tensor([2.])
    >>> quantile(torch.zeros(1, 5), torch.arange(5.0), 0.0)
    tensor([0.])
    >>> quantile(torch.tensor([[0.0, -1e9, -1e9, 0.0]]), torch.arange(4.0), 0.5)
    tensor([1.])
    """
    probability = scores.float().softmax(1)
    below = probability.cumsum(1) - probability / 2  # (B, C)
    after = (below < level).sum(1).clamp(1, len(candidates) - 1).unsqueeze(1)
    first, second = below.gather(1, after - 1), below.gather(1, after)
    share = ((level - first) / (second - first).clamp(min=1e-12)).clamp(0, 1).squeeze(1)
    values = candidates.to(below)
    return torch.lerp(values[after.squeeze(1) - 1], values[after.squeeze(1)], share)


def conformal_margin(target: Tensor, lower: Tensor, upper: Tensor, coverage: float) -> Tensor:
    r"""Return the margin that makes intervals cover targets (conformalized quantile regression, Romano et al. 2019).

    The interval of a new sample is :math:`[\text{lower} - m, \text{upper} + m]`, where m is the
    :math:`\lceil (N + 1) \, \text{coverage} \rceil`-th smallest of

    .. math:: E_i = \max(\text{lower}_i - y_i, \; y_i - \text{upper}_i)

    If the new sample and these N were drawn alike, its interval holds its target with at least this probability. Of too
    few samples for that, the largest :math:`E_i` is taken.

    Args:
        target: ``(N,)``.
        lower: Lower ends of the intervals before, ``(N,)``.
        upper: Their upper ends, ``(N,)``.
        coverage: Wanted share of the targets, between 0 and 1.

    Returns:
        Scalar; below 0 if the intervals were too wide.

    >>> y = torch.arange(9.0)
    >>> conformal_margin(y, torch.zeros(9), torch.zeros(9), 0.5)  # the 5th smallest of 0, 1, ..., 8
    tensor(4.)
    """
    error = torch.maximum(lower - target, target - upper).sort().values
    return error[min(len(error), math.ceil((len(error) + 1) * coverage)) - 1]
