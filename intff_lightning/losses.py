"""Keeping the local losses of a run: their mean over an epoch, and the last step at which each was finite."""

import torch
from torch import Tensor

from intff_lightning.errors import DivergenceError

__all__ = ["LossRecord"]


class LossRecord:
    """Collects the units' losses batch by batch, and looks at them only once a logging interval.

    A batch costs a list's append: no operation on the device, and no wait for it.

    Args:
        units: number of units.
        device: of their losses.
    """

    def __init__(self, units: int, device: torch.device) -> None:
        self.last_finite = torch.full((units,), -1, device=device)
        self._waiting: list[tuple[Tensor, int, int]] = []

    def add(self, unit_loss: Tensor, size: int, step: int) -> None:
        """Note the losses ``(U,)``, means over ``size`` samples, of a step."""
        self._waiting.append((unit_loss, size, step))

    def settle(self) -> tuple[Tensor, int]:
        """Work off what waits, on the device.

        Returns:
            Mean over samples of the units' summed loss since the last call, and the number of samples; one batch at
            least must wait.
        """
        losses, sizes, steps = zip(*self._waiting, strict=True)
        self._waiting = []
        loss = torch.stack(losses)  # (batches, U)
        step = torch.tensor(steps, device=loss.device).unsqueeze(1)
        self.last_finite = torch.where(loss.isfinite(), step, self.last_finite).amax(0)
        weight = torch.tensor(sizes, device=loss.device, dtype=loss.dtype) / sum(sizes)
        return (loss.sum(1) * weight).sum(), sum(sizes)

    def check(self, step: int, learning_rates: list[float]) -> None:
        """Raise where a loss of ``step`` was not finite; this waits for the device.

        Raises:
            DivergenceError: naming the first unit that diverged, and its last finite step.
        """
        last = self.last_finite.tolist()
        if min(last) == step:
            return
        k = last.index(min(last))
        when = f"its last finite step was {last[k]}" if last[k] >= 0 else "it never was"
        raise DivergenceError(
            f"unit_{k} diverged: at step {step} its local loss is not finite; {when}.\n"
            f"Lower its learning rate (now {learning_rates[k]:g}), or clip its gradients (gradient_clip_val)."
        )
