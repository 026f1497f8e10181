"""Keeping the losses of a run: their mean over an epoch, and the last step at which each was finite."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intff_lightning.errors import DivergenceError

__all__ = ["LossRecord"]


class LossRecord:
    """Collects the losses of a network's parts batch by batch, and looks at them only once a logging interval.

    A batch costs a list's append: no operation on the device, and no wait for it.

    Args:
        names: of the parts, U of them.
        device: of their losses.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.last_finite = torch.full((len(self.names),), -1, device=device)
        # a resumed run adds up in other portions, to the same float32 in the end; Apple's GPUs have no float64
        self.total = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self.count = 0
        self._waiting: list[tuple[Tensor, int, int]] = []

    def add(self, unit_loss: Tensor, size: int, step: int) -> None:
        """Note the losses ``(U,)``, means over ``size`` samples, of a step."""
        self._waiting.append((unit_loss, size, step))

    def log(self, module: Any, batch_idx: int) -> None:
        """Stop a run that diverged, where a logging interval ends, and log ``train/loss`` where an epoch does.

        Args:
            module: in training; its n-th optimizer is that of the n-th part.
            batch_idx: of the training step.

        Raises:
            DivergenceError: see :meth:`check`.
        """
        trainer = module.trainer
        every = trainer.log_every_n_steps  # 0 is never
        if not trainer.is_last_batch and (every < 1 or (batch_idx + 1) % every):
            return  # a look waits for the device
        self.settle()
        self.check(module.global_step, [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
        if trainer.is_last_batch:
            self.end_epoch(module)

    def end_epoch(self, module: Any) -> None:
        """Log ``train/loss``, the mean over the epoch's samples, unless its last batch has done so."""
        self.settle()
        if self.count:
            mean = (self.total / self.count).float()
            module.log(
                "train/loss", mean, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=self.count
            )
            self.total, self.count = torch.zeros_like(self.total), 0

    def settle(self) -> None:
        """Work off what waits, on the device."""
        if self._waiting:
            losses, sizes, steps = zip(*self._waiting, strict=True)
            self._waiting = []
            loss = torch.stack(losses)  # (batches, U)
            step = torch.tensor(steps, device=loss.device).unsqueeze(1)
            self.last_finite = torch.where(loss.isfinite(), step, self.last_finite).amax(0)
            weight = torch.tensor(sizes, device=loss.device, dtype=self.total.dtype)
            self.total = self.total + (loss.to(weight.dtype).sum(1) * weight).sum()
            self.count += sum(sizes)

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far."""
        self.settle()
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        self.total, self.count = state["total"].to(self.total.device), state["count"]

    def check(self, step: int, learning_rates: list[float]) -> None:
        """Raise where a loss of ``step`` was not finite; this waits for the device.

        Raises:
            DivergenceError: naming the first part that diverged, and its last finite step.
        """
        last = self.last_finite.tolist()
        if min(last) == step:
            return
        k = last.index(min(last))
        when = f"its last finite step was {last[k]}" if last[k] >= 0 else "it never was"
        raise DivergenceError(
            f"{self.names[k]} diverged: at step {step} its loss is not finite; {when}.\n"
            f"Lower its learning rate (now {learning_rates[k]:g}), or clip its gradients (gradient_clip_val)."
        )
