"""Weights of the units' votes, fitted on validation data."""

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from intff_lightning.functional import label_cross_entropy


def fit_weights(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Return the weights above zero with which the summed goodness of the units predicts labels best.

    .. math:: \min_{w > 0} \; L\Bigl(\sum_u w_u g_u^+, \sum_u w_u g_u^-\Bigr) + 10^{-4} \sum_u (\log w_u)^2

    L is the cross-entropy of :func:`~intff_lightning.functional.label_cross_entropy`. The second term keeps the weights
    finite if every label is predicted. Sums of logits with weights are a logarithmic opinion pool (Heskes 1998).

    Args:
        positive: Goodness of N samples under their true label, ``(U, N)``.
        negative: Goodness of the same samples under k wrong labels, ``(U, N, k)``.

    Returns:
        ``(U,)`` float32, on the CPU.
    """
    up, down = positive.detach().cpu().double(), negative.detach().cpu().double()
    logarithm = torch.zeros(len(up), dtype=torch.float64, requires_grad=True)
    # the loss is flat around its minimum, so a small change of it is no sign of the end
    optimizer = torch.optim.LBFGS(
        [logarithm], max_iter=100, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        with torch.enable_grad():
            weight = logarithm.exp()
            cross_entropy = label_cross_entropy(weight @ up, torch.einsum("u,unk->nk", weight, down))
            total = cross_entropy + 1e-4 * logarithm.square().sum()
            (logarithm.grad,) = torch.autograd.grad(total, [logarithm])
        return float(total.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch's own
    return logarithm.detach().exp().float()


class Ballots:
    """Goodness of the voting units in one validation, from which weights are fitted."""

    def __init__(self) -> None:
        self._positive: list[Tensor] = []
        self._negative: list[Tensor] = []

    def add(self, positive: Tensor, negative: Tensor) -> None:
        """Note the goodness of a batch, positive ``(U, B)`` and negative ``(U, B, k)``."""
        self._positive.append(positive.movedim(1, 0))
        self._negative.append(negative.movedim(1, 0))

    def fit(self, world_size: int) -> Tensor:
        """Return the weights ``(U,)`` that suit the samples of all processes."""
        found = []
        for parts in (self._positive, self._negative):
            mine = torch.cat(parts).contiguous()
            found.append(torch.cat(gather_all_tensors(mine)) if world_size > 1 else mine)
        return fit_weights(*(tensor.movedim(0, 1) for tensor in found))
