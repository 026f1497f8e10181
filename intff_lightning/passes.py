"""How a batch passes through the units: all inputs at once, or a few at a time, which bounds memory."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelledImages
from intff_lightning.local import LocalLoss
from intff_lightning.pairs import PairedBatch
from intff_lightning.randomness import device_states, replaying
from intff_lightning.stage import Stage
from intff_lightning.units import HiddenUnit


class Passage:
    """One batch on its way through the units.

    Args:
        batch: Positive and negative data.
        x: Input of unit ``first``: a tensor, :class:`~intff_lightning.labels.LabelledImages`, or a list of parts of it.
        first: Number of the first unit that this process holds.
        earlier: The summed goodness of the units before it.
        losses: Their local losses.
        goodness: Their goodness.
    """

    def __init__(
        self,
        batch: PairedBatch,
        x: Any,
        first: int = 0,
        earlier: Tensor | None = None,
        losses: Iterable[Tensor] = (),
        goodness: Iterable[Tensor] = (),
    ) -> None:
        self.batch = batch
        self.inputs: dict[int, Any] = {first: x}
        """Inputs of the units that have not read them yet."""
        self.earlier: dict[int, Tensor | None] = {first: earlier}
        """The summed goodness of the earlier units, for the same units."""
        self.losses: list[Tensor] = list(losses)
        self.goodness: list[Tensor] = list(goodness)

    def hand_over(self, h: Tensor | list[Tensor], loss: Tensor, g: Tensor, earlier: Tensor | None) -> None:
        """Pass the activations of a unit on to the next one, and note its local loss and goodness, all detached."""
        g = g.detach()
        self.losses.append(loss.detach())
        self.goodness.append(g)
        self.inputs[len(self.losses)] = h if isinstance(h, list) else h.detach()
        self.earlier[len(self.losses)] = g if earlier is None else earlier + g


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


def refuse_batch_statistics(units: Mapping[int, HiddenUnit]) -> None:
    """Refuse units whose activations for an input depend on the other inputs of a pass.

    Raises:
        ConfigurationError: A unit has batch normalization in training mode.
    """
    norms = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    for k, unit in units.items():
        if any(isinstance(layer, norms) and layer.training for layer in unit.modules()):
            raise ConfigurationError(
                f"unit_{k} has batch normalization, whose statistics are over all labels: leave chunk_size out, "
                "or use another norm (group)."
            )


def is_separable(loss: LocalLoss) -> bool:
    """Tell whether a loss says that it is separable, and not of a ``forward`` that a subclass has replaced."""
    owner = next(cls for cls in type(loss).__mro__ if "forward" in vars(cls))
    return loss.separable and "separable" in vars(owner)


class PartedPass:
    """A training pass through consecutive units in parts; a part goes through all units before the next one starts.

    All that the backward pass of a part needs of the other parts is the gradient of the local loss by its goodness (Gao
    et al. 2021, GradCache). If that depends on the goodness of other inputs (not
    :attr:`~intff_lightning.local.LocalLoss.separable`), all parts go through the units once before, with the same
    random draws (dropout).

    Args:
        units: The units by number, in order.
        parts: Inputs of the first of them, see :func:`in_parts`.
        earlier: Summed goodness ``(N,)`` of the units before them, or ``None``.
        loss_of: Maps the number of a unit, its goodness ``(N,)`` and that of the earlier units to its local loss.
        stage: Stage of a pipeline that holds the units, or ``None``. It seeds every unit for every part.
        keeps_outputs: Whether the activations of the last unit are needed.

    Attributes:
        goodness: Goodness of all inputs ``(N,)``, by unit.
        outputs: Activations of the last unit, in parts.
    """

    def __init__(
        self,
        units: Mapping[int, HiddenUnit],
        parts: list[Any],
        earlier: Tensor | None,
        loss_of: Callable[[int, Tensor, Tensor | None], Tensor],
        stage: Stage | None,
        keeps_outputs: bool,
    ) -> None:
        self.units, self.parts, self.loss_of, self.stage = units, parts, loss_of, stage
        self.first_earlier, self.keeps_outputs = earlier, keeps_outputs
        self.goodness: dict[int, Tensor] = {}
        self.outputs: list[Tensor] = []
        ends = list(itertools.accumulate(part.shape[0] for part in parts))
        self._places = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._states: dict[int, list[Tensor]] = {}

    def losses(self) -> Iterator[tuple[int, Tensor, bool, bool]]:
        """Yield for each part and unit a scalar; for a unit, their gradients add up to those of its local loss.

        Yields:
            Number of the unit, the scalar, and whether it is of the first and of the last part.
        """
        slopes: dict[int, Tensor] = {}
        if not all(is_separable(unit.loss) for unit in self.units.values()):
            with torch.no_grad():
                for number in range(len(self.parts)):
                    for _ in self._through(number):
                        pass
            slopes = {k: self._slope(k, earlier) for k, earlier in self.earlier()}
        for number, place in enumerate(self._places):
            first, last = number == 0, place is self._places[-1]
            for (k, h, g), (_, earlier) in zip(self._through(number), self.earlier(), strict=True):
                slope = slopes[k] if slopes else self._slope(k, earlier)
                if self.keeps_outputs and k == max(self.units):
                    self.outputs.append(h.detach())
                yield k, (g * slope[place]).sum(), first, last

    def earlier(self) -> Iterator[tuple[int, Tensor | None]]:
        """Yield the number of each unit, and the summed goodness ``(N,)`` of those before it, as far as it is known."""
        total = self.first_earlier
        for k in self.units:
            yield k, total
            total = self.goodness[k] if total is None else total + self.goodness[k]

    def _slope(self, k: int, earlier: Tensor | None) -> Tensor:
        """Return the gradient ``(N,)`` of the local loss of unit k by its goodness."""
        with torch.enable_grad():
            g = self.goodness[k].detach().requires_grad_()
            return torch.autograd.grad(self.loss_of(k, g, earlier), [g])[0]

    def _through(self, number: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each unit's number, activations and goodness of a part; no gradient goes to the unit before."""
        place = self._places[number]
        with self._same_draws(number):
            x = self.parts[number]
            for k, unit in self.units.items():
                if self.stage is not None:
                    self.stage.at(k, number)
                x = unit(x)
                g = unit.goodness(x)
                if k not in self.goodness:
                    self.goodness[k] = g.new_zeros(self._places[-1].stop)
                self.goodness[k][place] = g.detach()
                yield k, x, g
                x = x.detach()

    def _same_draws(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Repeat the random numbers of the first time that a part goes through the units."""
        device = next(next(iter(self.units.values())).parameters()).device
        if number in self._states:
            return replaying(self._states[number], device)
        if self.stage is None and not torch.is_grad_enabled():  # it will go again
            self._states[number] = device_states(device)
        return contextlib.nullcontext()
