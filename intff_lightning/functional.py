"""Ground floor: the paper's equations as pure functions (Tang 2023, sections 3.1 and 3.2).

Shapes use ``B`` for samples, ``k`` for negatives per positive and ``*`` for any feature dimensions.
Statistics are float32 at least: bfloat16 has no bits left for ``goodness - threshold``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "at_least_float32",
    "channel_goodness",
    "float_pixels",
    "goodness",
    "label_cross_entropy",
    "rms_normalize",
    "softplus_loss",
    "symba_loss",
    "top_goodness",
    "unit_l2_normalize",
]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def float_pixels(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels of uint8 in [0, 1]; floating point ones as they are."""
    return image if image.is_floating_point() else image.to(dtype).div_(255)


def unit_l2_normalize(x: Tensor, gain: float = 1.0, eps: float = 1e-4) -> Tensor:
    r"""Scale every sample to the L2 norm ``gain``, as the paper's units do with their inputs (section 3.2).

    .. math:: \hat x = \text{gain} \cdot \frac{x}{\lVert x \rVert_2 + \text{eps}}

    Without it a unit could raise its goodness just by passing on the length of its input.

    Args:
        x: ``(B, *)``; the norm runs over all dimensions but the first.
        gain: norm of the result. The paper uses 1; 10 to 20 train much faster with Adam.
        eps: added to the norm; the paper's 1e-4.

    Returns:
        ``(B, *)`` in the dtype of ``x``.

    >>> unit_l2_normalize(torch.tensor([[3.0, 4.0]]), gain=10.0)
    tensor([[5.9999, 7.9998]])
    """
    norm = torch.linalg.vector_norm(at_least_float32(x).flatten(1), dim=1)
    scale: Tensor = gain / (norm + eps)
    return x * scale.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def rms_normalize(x: Tensor, gain: float = 1.0, eps: float = 1e-8) -> Tensor:
    r"""Scale every sample to the root mean square ``gain`` (Zhang and Sennrich 2019, without a learned scale).

    .. math:: \hat x = \text{gain} \cdot \frac{x}{\sqrt{\operatorname{mean}_j x_j^2 + \text{eps}}}

    Unlike the L2 norm it does not depend on the number of features.

    Args:
        x: ``(B, *)``; the mean runs over all dimensions but the first.
        gain: root mean square of the result.
        eps: added to the mean square, so that an all-zero sample stays zero.

    Returns:
        ``(B, *)`` in the dtype of ``x``.

    >>> rms_normalize(torch.tensor([[3.0, -3.0]]))
    tensor([[ 1., -1.]])
    """
    mean_square = at_least_float32(x).flatten(1).square().mean(1)
    return x * (gain * torch.rsqrt(mean_square + eps)).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class _LeanMeanSquares(torch.autograd.Function):
    """:func:`_mean_squares` whose backward pass makes one tensor of the size of ``h``, where autograd's makes three."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, weights: Tensor | None) -> Tensor:
        if weights is not None:
            return h.square() @ weights
        dot: Tensor = torch.linalg.vecdot(h, h)  # no squares are written down
        return dot / h.shape[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        h, weights = ctx.saved_tensors
        if weights is None:
            return h * (gradient * (2 / h.shape[1])).unsqueeze(1), None
        with torch.autocast(h.device.type, enabled=False):
            return (gradient @ (2 * weights).T).mul_(h), None


def _mean_squares(h: Tensor, weights: Tensor | None = None) -> Tensor:
    """Of rows ``(B, D)``: ``(B,)``, or ``(B, C)`` with the weights ``(D, C)`` of means; never in half precision."""
    with torch.autocast(h.device.type, enabled=False):  # which would make products of float32 half, too
        # traced programs and forward-mode derivatives know torch's own operations alone
        way = _LeanMeanSquares.apply if h.requires_grad else _LeanMeanSquares.forward
        mean_squares: Tensor = way(h, weights)
    return mean_squares


def goodness(h: Tensor, selected: Sequence[int] | Tensor | None = None) -> Tensor:
    r"""Mean squared activation of the selected output neurons (the paper's local quantity, section 3.2).

    .. math:: g = \operatorname{mean}_{j \in \text{selected}} h_j^2

    Args:
        h: ``(B, *)`` activations of a unit.
        selected: indices into the flattened features; ``None`` takes them all.

    Returns:
        ``(B,)``, float32 for half precision input, else in the dtype of ``h``.

    >>> goodness(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([4.6667])
    >>> goodness(torch.tensor([[1.0, 2.0, 3.0]]), selected=[0, 2])
    tensor([5.])
    """
    flat = at_least_float32(h).flatten(1)
    if selected is not None:
        flat = flat[:, torch.as_tensor(selected, device=h.device)]
    return _mean_squares(flat)


def top_goodness(h: Tensor, count: int) -> Tensor:
    r"""Mean square of the ``count`` neurons that fire most, so that the others are free to say something else.

    Args:
        h: ``(B, *)`` activations of a unit.
        count: neurons that count, at most those that there are.

    Returns:
        ``(B,)``, as :func:`goodness`.

    >>> top_goodness(torch.tensor([[1.0, -2.0, 3.0]]), 2)
    tensor([6.5000])
    """
    return at_least_float32(h).flatten(1).square().topk(count, dim=1).values.mean(1)


def channel_goodness(h: Tensor, classes: int) -> Tensor:
    r"""Goodness of every class: the mean square of its own share of the channels (Papachristodoulou et al. 2024).

    .. math:: g_c = \operatorname{mean}_{j \in \text{channels of } c, \text{positions}} h_j^2

    The channels of a class lie side by side; where their number is no multiple of the classes, some have one more.

    Args:
        h: ``(B, D)``, maps ``(B, D, H, W)`` or tokens ``(B, T, D)``, with D channels, at least one a class.
        classes: number of classes C.

    Returns:
        ``(B, C)``, float32 at least.

    >>> channel_goodness(torch.tensor([[1.0, 3.0, 2.0, 2.0]]), 2)
    tensor([[5., 4.]])
    """
    h = at_least_float32(h)
    if h.ndim == 3:
        h = h.transpose(1, 2)  # channels, then positions
    size, channels, features = h.shape[0], h.shape[1], h.shape[1:].numel()
    if channels % classes == 0:
        return goodness(h.reshape(size * classes, features // classes)).view(size, classes)
    owner = torch.arange(channels, device=h.device) * classes // channels
    share = torch.nn.functional.one_hot(owner, classes).to(h.dtype)
    share = share / share.sum(0)
    if h.ndim == 2:
        return _mean_squares(h, share)
    by_channel = goodness(h.reshape(size * channels, features // channels)).view(size, channels)
    return (by_channel.unsqueeze(2) * share).sum(1)  # a product of matrices would be half precision under autocast


def softplus_loss(positive: Tensor, negative: Tensor | None, threshold: float = 1.5) -> Tensor:
    r"""Local loss of a unit: positive goodness above the threshold, negative goodness below it.

    .. math:: L = \tfrac12 \operatorname{mean}\,\zeta(\theta - g^+) + \tfrac12 \operatorname{mean}\,\zeta(g^- - \theta),
        \qquad \zeta(z) = \log(1 + e^z)

    With one negative per positive this is the paper's mean over both passes (figure in section 3.1). The softplus is
    the stable one; the author's ``log(1 + exp(z))`` overflows from z = 89 on in float32.

    Args:
        positive: goodness ``(B,)`` of positive data.
        negative: goodness ``(B, k)`` of negative data; ``None`` leaves its half out.
        threshold: the paper's theta, 1.5 throughout.

    Returns:
        Scalar.

    >>> softplus_loss(torch.tensor([1.5]), torch.tensor([[1.5]]))
    tensor(0.6931)
    """
    loss = softplus(threshold - positive).mean()
    return loss if negative is None else 0.5 * loss + 0.5 * softplus(negative - threshold).mean()


def label_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Cross-entropy of the true label among the labels that were tried, with goodness as the logits.

    .. math:: L = -\operatorname{mean}\,\log \frac{e^{g^+}}{e^{g^+} + \sum_{i=1}^{k} e^{g^-_i}}

    With every wrong label among the negatives (k = C - 1) the softmax of a unit's goodness is a likelihood of labels;
    with fewer, its sampled form. For k = 1 it is SymBa's loss (Lee and Song 2023) with alpha = 1.

    Args:
        positive: goodness ``(B,)`` of the images under their true label.
        negative: goodness ``(B, k)`` under k wrong ones.

    Returns:
        Scalar.

    >>> label_cross_entropy(torch.tensor([2.0]), torch.tensor([[2.0, 2.0, 2.0]]))  # log 4
    tensor(1.3863)
    """
    goodness = torch.cat([positive.unsqueeze(1), negative], dim=1)
    return (goodness.logsumexp(1) - positive).mean()


def symba_loss(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    r"""SymBa's loss (Lee and Song 2023): no threshold, positive goodness above negative goodness by a margin.

    .. math:: L = \operatorname{mean}\,\zeta\bigl(-\alpha (g^+ - g^-)\bigr)

    Args:
        positive: goodness ``(B,)`` of positive data.
        negative: goodness ``(B, k)`` of negative data.
        alpha: steepness.

    Returns:
        Scalar.

    >>> symba_loss(torch.tensor([1.0]), torch.tensor([[1.0, 1.0]]))
    tensor(0.6931)
    """
    return softplus(alpha * (negative - positive.unsqueeze(1))).mean()
