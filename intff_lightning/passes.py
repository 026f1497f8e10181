"""A unit's gradients from a few network inputs at a time, so that its memory does not grow with their number."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelledImages
from intff_lightning.randomness import device_states, replaying
from intff_lightning.units import HiddenUnit


def in_parts(x: Tensor | LabelledImages, size: int) -> list[Tensor] | list[LabelledImages]:
    """Return network inputs ``(N, *)`` in parts of at most ``size``, in their order.

    Images under several labels each stay together under as many labels as fit, so that a unit reads each image once for
    them; if not even one label of every image fits, the images are parted too.
    """
    if isinstance(x, Tensor):
        return list(torch.split(x, size))
    images, count = len(x.image), x.label.shape[1]
    label = x.label.expand(images, count)
    parts = []
    for columns in torch.split(label, max(1, size // images), dim=1):
        rows = max(1, size // columns.shape[1])
        if rows >= images:
            parts.append(LabelledImages(x.image, columns, x.encoder))
            continue
        pairs = zip(torch.split(x.image, rows), torch.split(columns, rows), strict=True)
        parts += [LabelledImages(image, own, x.encoder) for image, own in pairs]
    return parts


def refuse_batch_statistics(k: int, unit: HiddenUnit) -> None:
    """Refuse unit k if its activations depend on which inputs it reads at once.

    Raises:
        ConfigurationError: It has batch normalization in training mode.
    """
    norms = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    if any(isinstance(layer, norms) and layer.training for layer in unit.modules()):
        raise ConfigurationError(
            f"unit_{k} has batch normalization, whose statistics are over all labels: leave chunk_size out, "
            "or use another norm (group)."
        )


class _Reader:
    """Reads parts of a unit's inputs, with the same random numbers (dropout) whenever it reads a part again."""

    def __init__(self, unit: HiddenUnit) -> None:
        self.unit, self.device = unit, next(unit.parameters()).device
        self._states: dict[int, list[Tensor]] = {}

    def __call__(self, number: int, part: Any) -> Tensor:
        """Return the activations for the part of this number."""
        if number in self._states:
            with replaying(self._states[number], self.device):
                again: Tensor = self.unit(part)
            return again
        self._states[number] = device_states(self.device)
        h: Tensor = self.unit(part)
        return h


def backward_in_parts(
    unit: HiddenUnit,
    parts: list[Any],
    loss_of: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor, bool, bool], None],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Compute a unit's gradients from parts of its inputs: those of all inputs at once (Gao et al. 2021, GradCache).

    The loss gives its gradient by each goodness, and one part after another brings that to the parameters and is freed.
    If the gradient depends on all goodness (not :attr:`~intff_lightning.local.LocalLoss.separable`), this takes a
    forward pass before. Images under labels are small, so the first unit computes the activations that it hands over
    when its gradients are done.

    Args:
        unit: The unit.
        parts: Its inputs, see :func:`in_parts`. The list is emptied, and each part is freed when it was read.
        loss_of: Maps the goodness of all inputs ``(N,)`` to the local loss.
        backward: Called with a scalar, and whether it is that of the first and of the last part; it adds the gradients
            of the scalar to those of the parameters.

    Returns:
        The activations in parts, the local loss, and the goodness ``(N,)`` of all inputs, all detached.
    """
    sizes, read, late = [part.shape[0] for part in parts], _Reader(unit), isinstance(parts[0], LabelledImages)
    again = list(parts) if late else []
    handed: list[Tensor] = []

    def slopes(g: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss = loss_of(g.requires_grad_())
            return loss.detach(), torch.autograd.grad(loss, [g])[0]

    g: Tensor | None = None
    if not unit.loss.separable:
        with torch.no_grad():
            g = torch.cat([unit.goodness(read(number, part)) for number, part in enumerate(parts)])
        loss, slope = slopes(g)
    end = 0
    for number, size in enumerate(sizes):
        h = read(number, parts.pop(0))
        own = unit.goodness(h)
        start, end = end, end + size
        if unit.loss.separable:
            g = own.new_zeros(sum(sizes)) if g is None else g.detach()
            g[start:end] = own.detach()
            loss, slope = slopes(g)
        backward((own * slope[start:end]).sum(), number == 0, not parts)
        if not late:
            handed.append(h.detach())
        del h, own
    with torch.no_grad():
        handed += [read(number, part) for number, part in enumerate(again)]
    assert g is not None  # there is a part
    return handed, loss, g.detach()
