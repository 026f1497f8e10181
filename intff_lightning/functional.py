"""The paper's equations as pure functions (Tang 2023, sections 3.1 and 3.2).

In shapes, ``B`` is the number of samples, ``k`` the number of negatives per positive, and ``*`` any feature dimensions.
Statistics are computed in float32 at least, because bfloat16 is too coarse for ``goodness - threshold``, and float16
holds no number above 65,504.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, group_norm, softplus

from intff_lightning.errors import DataError

HALF = (torch.float16, torch.bfloat16)
"""Half precision."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return half precision as float32, and any other dtype as it is."""
    return x.float() if x.dtype in HALF else x


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off; a meta device has none."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def float_pixels(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uint8 pixels as floating point in [0, 1], and floating point pixels as they are."""
    if image.is_floating_point() or image.dtype == torch.bool:
        return image if image.is_floating_point() else image.to(dtype)
    if image.dtype != torch.uint8:
        raise DataError(
            f"pixels are {image.dtype}, and nothing tells their range: "
            "PairedDataModule(..., pixel_range=[LOWEST, HIGHEST])."
        )
    return image.to(dtype).div_(255)


def l2_norm(x: Tensor) -> Tensor:
    """Return the L2 norm ``(B,)`` of each sample ``(B, *)``, in a dtype that can hold it.

    That is float32 for float16, and float64 for bfloat16, whose squares overflow float32 (but float32 on Apple's GPUs,
    which have no float64). It is the dtype of ``x`` otherwise.
    """
    wide = {torch.float16: torch.float32, torch.bfloat16: torch.float64}.get(x.dtype, x.dtype)
    if wide == torch.float64 and x.device.type == "mps":
        wide = torch.float32
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=wide)
    return norm


def scale_samples(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply each sample ``(B, *)`` by its factor, ``(B,)`` or ``(B, 1)``; returns the dtype of ``x``.

    For half precision it is computed in float32: the factor may be larger than float16's largest number.
    """
    scale = scale.to(torch.promote_types(x.dtype, torch.float32))
    return (x * scale.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def unit_l2_normalize(x: Tensor, gain: float = 1.0, eps: float = 1e-4) -> Tensor:
    r"""Scale each sample to the L2 norm ``gain``, as the paper's units do with their inputs (section 3.2).

    .. math:: \hat x = \text{gain} \cdot \frac{x}{\lVert x \rVert_2 + \text{eps}}

    Without it a unit could raise its goodness merely by passing on the length of its input.

    Args:
        x: ``(B, *)``; the norm runs over all dimensions but the first.
        gain: Norm of the result. The paper uses 1; 10 to 20 train much faster with Adam.
        eps: Added to the norm; the paper uses 1e-4.

    Returns:
        ``(B, *)`` in the dtype of ``x``.

    >>> unit_l2_normalize(torch.tensor([[3.0, 4.0]]), gain=10.0)
    tensor([[5.9999, 7.9998]])
    """
    return scale_samples(x, gain / (l2_norm(x) + eps))


def rms_normalize(x: Tensor, gain: float = 1.0, eps: float = 1e-8) -> Tensor:
    r"""Scale each sample to the root mean square ``gain`` (Zhang and Sennrich 2019, without a learned scale).

    .. math:: \hat x = \text{gain} \cdot \frac{x}{\sqrt{\operatorname{mean}_j x_j^2 + \text{eps}}}

    Unlike the L2 norm, it does not depend on the number of features.

    Args:
        x: ``(B, *)``; the mean runs over all dimensions but the first.
        gain: Root mean square of the result.
        eps: Added to the mean square, so that an all-zero sample stays zero.

    Returns:
        ``(B, *)`` in the dtype of ``x``.

    >>> rms_normalize(torch.tensor([[3.0, -3.0]]))
    tensor([[ 1., -1.]])
    """
    mean_square = l2_norm(x).square() / x.shape[1:].numel() if x.dtype in HALF else x.flatten(1).square().mean(1)
    return scale_samples(x, gain * torch.rsqrt(mean_square + eps))


def group_normalize(x: Tensor, groups: int = 1, eps: float = 1e-5) -> Tensor:
    r"""Subtract the mean of each group of channels and divide by its standard deviation (Wu and He 2018).

    With one group this is layer normalization. With one group per class it removes the goodness of DeeperForward
    (:func:`mean_activation`) from what the next unit reads (Sun et al. 2025).

    .. math:: \hat x_j = \frac{x_j - \operatorname{mean}_i x_i}{\sqrt{\operatorname{var}_i x_i + \text{eps}}},
        \qquad i, j \in \text{one group}

    Args:
        x: ``(B, D, *)`` with D channels.
        groups: Number of groups of channels side by side; D is a multiple of it.
        eps: Added to the variance.

    Returns:
        ``(B, D, *)`` in the dtype of ``x``, computed in float32 at least.

    >>> group_normalize(torch.tensor([[1.0, 3.0, 5.0, 5.0]]), groups=2)
    tensor([[-1.0000,  1.0000,  0.0000,  0.0000]])
    """
    return group_norm(at_least_float32(x), groups, eps=eps).to(x.dtype)


class _LeanMeanSquares(torch.autograd.Function):
    """Mean squares with a backward pass that makes one tensor as large as ``h``; autograd's makes three."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, keep: int, weights: Tensor | None) -> Tensor:
        if weights is not None:
            return h.square() @ weights
        if not h.is_contiguous():  # maps in channels_last, which a reshape would copy
            return h.square().mean(tuple(range(keep, h.ndim)))
        rows = h.flatten(keep)
        dot: Tensor = torch.linalg.vecdot(rows, rows)  # makes no tensor of squares
        return dot / rows.shape[-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, Tensor | None], output: Tensor) -> None:
        h, ctx.keep, weights = inputs
        ctx.save_for_backward(h, weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        h, weights = ctx.saved_tensors
        if weights is None:
            factor = gradient * (2 / h.shape[ctx.keep :].numel())
            return h * factor.view(*factor.shape, *[1] * (h.ndim - ctx.keep)), None, None  # in the format of h
        with without_autocast(h.device.type):
            return (gradient @ (2 * weights).T).mul_(h), None, None


def _mean_squares(h: Tensor, keep: int = 1, weights: Tensor | None = None) -> Tensor:
    """Average the squares over all dimensions but the first ``keep``, or in rows ``(B, D)`` by weights ``(D, C)``."""
    with without_autocast(h.device.type):  # autocast would compute the product in half precision
        # tracing and forward-mode derivatives support only torch's own operations
        traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if traced and weights is None:
            return h.square().mean(tuple(range(keep, h.ndim)))
        way = _LeanMeanSquares.apply if h.requires_grad and not traced else _LeanMeanSquares.forward
        mean_squares: Tensor = way(h, keep, weights)
    return mean_squares


def goodness(h: Tensor, selected: Sequence[int] | Tensor | None = None) -> Tensor:
    r"""Mean squared activation of the selected output neurons (the paper's local quantity, section 3.2).

    .. math:: g = \operatorname{mean}_{j \in \text{selected}} h_j^2

    Args:
        h: Activations of a unit, ``(B, *)``.
        selected: Indices of the neurons that count, in the flattened activations; ``None`` selects all.

    Returns:
        ``(B,)``, float32 for half precision input, otherwise in the dtype of ``h``.

    >>> goodness(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([4.6667])
    >>> goodness(torch.tensor([[1.0, 2.0, 3.0]]), selected=[0, 2])
    tensor([5.])
    """
    h = at_least_float32(h)
    if selected is not None:
        h = h.flatten(1)[:, torch.as_tensor(selected, device=h.device)]
    return _mean_squares(h)


def top_goodness(h: Tensor, count: int) -> Tensor:
    r"""Mean square of the ``count`` most active neurons, so that the others are free to represent something else.

    Args:
        h: Activations of a unit, ``(B, *)``.
        count: Number of neurons that count, at most all of them.

    Returns:
        ``(B,)``, in the dtype of :func:`goodness`.

    >>> top_goodness(torch.tensor([[1.0, -2.0, 3.0]]), 2)
    tensor([6.5000])
    """
    return at_least_float32(h).flatten(1).square().topk(count, dim=1).values.mean(1)


def _shares(channels: int, classes: int, like: Tensor) -> Tensor:
    """Return the weights ``(D, C)`` by which the channels of each class are averaged."""
    owner = torch.arange(channels, device=like.device) * classes // channels
    share = torch.nn.functional.one_hot(owner, classes).to(like.dtype)
    return share / share.sum(0)


def mean_activation(h: Tensor, classes: int | None = None) -> Tensor:
    r"""Mean activation without the square, the goodness of DeeperForward (Sun et al., ICLR 2025).

    .. math:: g = \operatorname{mean}_j h_j, \qquad g_c = \operatorname{mean}_{j \in \text{channels of } c} h_j

    Its gradient is the same for weak and strong neurons, so that weak ones do not fall silent. A normalization of what
    the next unit reads belongs to it, see :func:`group_normalize`.

    Args:
        h: Activations of a unit, ``(B, *)``; by class ``(B, D)``, ``(B, D, H, W)`` or tokens ``(B, T, D)``.
        classes: Number of classes C; ``None`` averages all neurons.

    Returns:
        ``(B,)``, or ``(B, C)`` by class, in float32 at least.

    >>> mean_activation(torch.tensor([[1.0, 3.0, 2.0, 4.0]]), classes=2)
    tensor([[2., 3.]])
    """
    wide = torch.promote_types(h.dtype, torch.float32)
    if classes is None:
        return h.flatten(1).mean(1, dtype=wide)
    channels = h.mean(1, dtype=wide) if h.ndim == 3 else h.to(wide) if h.ndim == 2 else h.flatten(2).mean(2, dtype=wide)
    if channels.shape[1] % classes == 0:
        return channels.view(len(h), classes, channels.shape[1] // classes).mean(2)
    return (channels.unsqueeze(2) * _shares(channels.shape[1], classes, channels)).sum(1)


def patch_goodness(h: Tensor, patches: int) -> Tensor:
    r"""Goodness of spatial positions (ASGE, Gong et al. 2025): the mean square of each patch of each channel.

    .. math:: g_{c,i,j} = \operatorname{mean}_{y, x \in \text{patch } i, j} h_{c,y,x}^2

    The paper takes the sum over a patch.

    Args:
        h: Maps ``(B, D, H, W)``.
        patches: Number P of patches along each side, at most one per position. Patches that cannot be equal overlap.

    Returns:
        ``(B, D * P * P)``, in float32 at least: the patches of the first channel, row by row, then of the second.

    >>> patch_goodness(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2)
    tensor([[ 1.,  4.,  9., 16.]])
    """
    sides = min(patches, h.shape[2]), min(patches, h.shape[3])
    return adaptive_avg_pool2d(at_least_float32(h).square(), sides).flatten(1)


def channel_goodness(h: Tensor, classes: int) -> Tensor:
    r"""Goodness by class: the mean square of each class's own share of the channels (Papachristodoulou et al. 2024).

    .. math:: g_c = \operatorname{mean}_{j \in \text{channels of } c, \text{positions}} h_j^2

    The channels of a class lie side by side. If D is not a multiple of C, some classes have one channel more.

    Args:
        h: ``(B, D)``, maps ``(B, D, H, W)`` or tokens ``(B, T, D)``, with D channels, at least one per class.
        classes: Number of classes C.

    Returns:
        ``(B, C)``, in float32 at least.

    >>> channel_goodness(torch.tensor([[1.0, 3.0, 2.0, 2.0]]), 2)
    tensor([[5., 4.]])
    """
    h = at_least_float32(h)
    size, channels = h.shape[0], h.shape[2 if h.ndim == 3 else 1]
    equal = channels % classes == 0
    if h.ndim == 2:
        if equal:
            return _mean_squares(h.reshape(size, classes, channels // classes), keep=2)
        return _mean_squares(h, weights=_shares(channels, classes, h))
    by_channel = _mean_squares(h.transpose(1, 2) if h.ndim == 3 else h, keep=2)
    if equal:
        return by_channel.view(size, classes, channels // classes).mean(2)
    # autocast would compute a matrix product in half precision
    return (by_channel.unsqueeze(2) * _shares(channels, classes, h)).sum(1)


def pair_by_input(g: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Tell positive ``(*, B)`` from negative goodness ``(*, B, k)`` (``None`` if k is 0), one per network input.

    Args:
        g: ``(*, (1 + k) * B)``: the B positives, then the first negative of each sample, then the second of each.
        size: Number of samples B.
    """
    positive, negative = g[..., :size], g[..., size:]
    if not negative.shape[-1]:
        return positive, None
    return positive, negative.view(*negative.shape[:-1], -1, size).transpose(-1, -2)


def pair_by_class(g: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Tell positive ``(*, B)`` from negative goodness ``(*, B, C - 1)``, one per class: the true class is positive.

    >>> pair_by_class(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
    (tensor([2.]), tensor([[3., 1.]]))
    """
    classes = g.shape[-1]
    order = (target.unsqueeze(1) + torch.arange(classes, device=g.device)) % classes
    g = g.gather(-1, order.expand(g.shape))
    return g[..., 0], g[..., 1:]


def is_decided(scores: Tensor) -> Tensor:
    """Tell for each row of scores ``(*, C)`` whether its largest score is finite, so that the row names a class.

    A score that is not a number counts as the largest; minus infinity rules a class out.

    >>> is_decided(torch.tensor([[1.0, -torch.inf], [1.0, torch.inf], [1.0, torch.nan]]))
    tensor([ True, False, False])
    """
    return scores.amax(-1).isfinite()


def softplus_loss(positive: Tensor, negative: Tensor | None, threshold: float = 1.5) -> Tensor:
    r"""Local loss of a unit: positive goodness above the threshold, negative goodness below it.

    .. math:: L = \tfrac12 \operatorname{mean}\,\zeta(\theta - g^+) + \tfrac12 \operatorname{mean}\,\zeta(g^- - \theta),
        \qquad \zeta(z) = \log(1 + e^z)

    With one negative per positive this is the paper's mean over both passes (figure in section 3.1). This softplus is
    stable; the author's ``log(1 + exp(z))`` overflows in float32 above z = 88.

    Args:
        positive: Goodness of the positive data, ``(B,)``.
        negative: Goodness of the negative data, ``(B, k)``; with ``None`` the loss is the positive mean alone.
        threshold: The paper's theta, 1.5 throughout.

    Returns:
        Scalar, float32 for half precision input.

    >>> softplus_loss(torch.tensor([1.5]), torch.tensor([[1.5]]))
    tensor(0.6931)
    """
    loss = softplus(threshold - at_least_float32(positive)).mean()
    return loss if negative is None else 0.5 * loss + 0.5 * softplus(at_least_float32(negative) - threshold).mean()


def label_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Cross-entropy of the true label among the labels tried, with goodness as the logits.

    .. math:: L = -\operatorname{mean}\,\log \frac{e^{g^+}}{e^{g^+} + \sum_{i=1}^{k} e^{g^-_i}}

    With all wrong labels as negatives (k = C - 1) this is the cross-entropy over all classes; with fewer it is its
    sampled form. For k = 1 it is SymBa's loss (Lee and Song 2023) with alpha = 1.

    Args:
        positive: Goodness of the images under their true label, ``(B,)``.
        negative: Goodness of the images under k wrong labels, ``(B, k)``.

    Returns:
        Scalar, float32 for half precision input.

    >>> label_cross_entropy(torch.tensor([2.0]), torch.tensor([[2.0, 2.0, 2.0]]))  # log 4
    tensor(1.3863)
    """
    positive, negative = at_least_float32(positive), at_least_float32(negative)
    goodness = torch.cat([positive.unsqueeze(1), negative], dim=1)
    return (goodness.logsumexp(1) - positive).mean()


def symba_loss(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    r"""SymBa's loss (Lee and Song 2023): it pushes positive above negative goodness, without a threshold.

    .. math:: L = \operatorname{mean}\,\zeta\bigl(-\alpha (g^+ - g^-)\bigr)

    Args:
        positive: Goodness of the positive data, ``(B,)``.
        negative: Goodness of the negative data, ``(B, k)``.
        alpha: Steepness.

    Returns:
        Scalar, float32 for half precision input.

    >>> symba_loss(torch.tensor([1.0]), torch.tensor([[1.0, 1.0]]))
    tensor(0.6931)
    """
    return softplus(alpha * (at_least_float32(negative) - at_least_float32(positive).unsqueeze(1))).mean()
