"""Keeping the losses of a run: their mean over an epoch, and the last step at which each was finite."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intff_lightning.errors import DivergenceError


class LossRecord:
    """Collects the losses of U named parts of a network, and reads their values only where a logging interval ends.

    Adding a batch costs one list append: no operation on the device, and no wait for it.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.last_finite = torch.full((len(self.names),), -1, device=device)
        # a resumed run adds up in other portions, yet reaches the same float32; Apple's GPUs have no float64
        self.total = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self.count = 0
        self._last = (self.total, 0)
        self._waiting: list[tuple[Tensor, int, int]] = []

    def add(self, losses: Tensor, size: int, step: int) -> None:
        """Add the losses ``(U,)`` of one step, means over ``size`` samples."""
        self._waiting.append((losses, size, step))

    def pop_mean(self) -> tuple[Tensor, int] | None:
        """Return the mean of the summed losses over all samples since the last call, and the number of samples."""
        self._settle()
        if not self.count:
            return None
        self._last = self.total, self.count
        self.total, self.count = torch.zeros_like(self.total), 0
        return (self._last[0] / self._last[1]).float(), self._last[1]

    def check(self, step: int, learning_rates: Sequence[float]) -> None:
        """Raise a DivergenceError if a loss of this step is not finite; this waits for the device."""
        self._settle()
        last = self.last_finite.tolist()
        if min(last) == step:
            return
        k = last.index(min(last))
        when = f"its last finite step was {last[k]}" if last[k] >= 0 else "it never was"
        raise DivergenceError(
            f"{self.names[k]} diverged: at step {step} its loss is not finite; {when}.\n"
            f"Lower its learning rate (now {learning_rates[k]:g}), or clip its gradients (gradient_clip_val)."
        )

    def _settle(self) -> None:
        """Process the waiting batches, on the device."""
        if self._waiting:
            losses, sizes, steps = zip(*self._waiting, strict=True)
            self._waiting = []
            loss = torch.stack(losses)  # (batches, U)
            step = torch.tensor(steps, device=loss.device).unsqueeze(1)
            self.last_finite = torch.where(loss.isfinite(), step, self.last_finite).amax(0)
            weight = torch.tensor(sizes, device=loss.device, dtype=self.total.dtype)
            self.total = self.total + (loss.to(weight.dtype).sum(1) * weight).sum()
            self.count += sum(sizes)

    def state_dict(self, with_last_mean: bool = False) -> dict[str, Any]:
        """Return the sums; if they are empty, ``with_last_mean`` returns those of the last mean, to log it again."""
        self._settle()
        total, count = self._last if with_last_mean and not self.count else (self.total, self.count)
        return {"total": total, "count": count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.count = state["total"].to(self.total.device), state["count"]
