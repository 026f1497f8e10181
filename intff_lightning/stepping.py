"""How gradients become steps: N optimizers under Lightning's manual optimization, as if they were one.

Lightning leaves clipping, accumulation, schedules and the gradient scaler to whoever optimizes by hand. Here a unit's
optimizer is stepped at most once for each of its turns, ``global_step`` rises by one however many units there are, and
the flags of the Trainer mean what they mean elsewhere.
"""

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from intff_lightning.errors import ConfigurationError
from intff_lightning.units import UnitStack

__all__ = ["UnitSteps"]


class _PlainSaves(Callback):
    """Has every ``ModelCheckpoint`` save by steps and by time as in automatic optimization, just before its own turn.

    In manual optimization Lightning 2.6 ignores the time, and warns that a checkpoint holds what a step has made.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        for callback in trainer.checkpoint_callbacks:
            if type(callback).on_train_batch_end is ModelCheckpoint.on_train_batch_end:  # it asks the module this alone
                callback.on_train_batch_end(trainer, SimpleNamespace(automatic_optimization=True), *batch)  # type: ignore[arg-type]


class UnitSteps(L.LightningModule):
    """Base of modules that train ``units``, each by the optimizer of its own number."""

    units: UnitStack
    inner_steps: int
    handover: str
    gradient_clip_val: float | None
    gradient_clip_algorithm: str
    scheduler_monitor: str
    _flags: Mapping[str, Any] = MappingProxyType({})

    # ---------------------------------------------------------------- the Trainer's flags

    def configure_callbacks(self) -> list[Callback]:
        """Take over flags that Lightning refuses to honour in manual optimization, before it does."""
        trainer: Any = self.trainer
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ConfigurationError(
                f"{type(trainer.strategy).__name__} takes one optimizer and one backward pass, IntFF has one a unit.\n"
                "Use --trainer.strategy ddp: activations do not grow with depth, so there is less to shard."
            )
        if len(self.units) > 1 and any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):
            raise ConfigurationError(
                f"StochasticWeightAveraging takes one optimizer, here are {len(self.units)}.\n"
                "Use EMAWeightAveraging or WeightAveraging (lightning.pytorch.callbacks): they average any number."
            )
        names = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
        self._flags = {name: getattr(trainer, name) for name in names}
        if trainer.accumulate_grad_batches > 1 and (self.inner_steps > 1 or self.handover == "after"):
            raise ConfigurationError(
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} puts a unit's step off, and inner_steps > 1"
                " or handover=after take it at once:\nchoose one of them."
            )
        trainer.gradient_clip_val, trainer.accumulate_grad_batches = None, 1
        return [] if any(isinstance(c, _PlainSaves) for c in trainer.callbacks) else [_PlainSaves()]

    def give_flags_back(self) -> None:
        """Undo the taking over, once Lightning has looked: the length of schedules and logging go by them."""
        for name, value in self._flags.items():
            setattr(self.trainer, name, value)

    # ---------------------------------------------------------------- gradients

    def unit_parameters(self, k: int) -> list[nn.Parameter]:
        """What the optimizer of unit k trains."""
        return list(self.units[k].parameters())

    def unit_optimizers(self) -> list[LightningOptimizer]:
        """The optimizers, in a list even where there is one."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def backward_units(self, loss: Tensor, group: list[int], batch_idx: int) -> None:
        """Gradients of the group's units, and of nothing else; averaged over processes, accumulated over batches."""
        every = self.trainer.accumulate_grad_batches
        if batch_idx % every == 0:
            for k in group:
                for parameter in self.unit_parameters(k):
                    parameter.grad = None
        if every > 1:
            loss = loss / every
        strategy = self.trainer.strategy
        if not isinstance(strategy, ParallelStrategy) or strategy.world_size == 1:
            self.manual_backward(loss)
            return
        # DDP's own reduction expects every parameter in every backward pass: reduce this group's alone, in one piece
        with strategy.block_backward_sync():
            self.manual_backward(loss)
        if self.steps_now(batch_idx):
            gradients = [p.grad for k in group for p in self.unit_parameters(k) if p.grad is not None]
            mean = strategy.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
            for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def steps_now(self, batch_idx: int) -> bool:
        """Whether this batch ends an accumulation; an epoch's last batch does."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or bool(self.trainer.is_last_batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip one unit's gradients; here they are unscaled whatever the precision."""
        k = next(k for k, wrapped in enumerate(self.unit_optimizers()) if wrapped.optimizer is optimizer)
        values = (self.units[k].gradient_clip_val, self.gradient_clip_val)
        value = next((value for value in values if value is not None), None)
        if value is not None:
            self.clip_gradients(optimizer, value, self.gradient_clip_algorithm)
        elif self._flags.get("gradient_clip_val"):
            self.clip_gradients(optimizer, self._flags["gradient_clip_val"], self._flags["gradient_clip_algorithm"])

    # ---------------------------------------------------------------- steps

    def step_units(self, group: list[int], batch_idx: int, counted: bool) -> None:
        """Step the group's optimizers, where the batch ends an accumulation.

        Args:
            group: numbers of the units.
            batch_idx: of the training step.
            counted: the last step of it is the batch's last, the one that counts for ``global_step``.
        """
        if not self.steps_now(batch_idx):
            return
        for k in group:
            optimizer = self.unit_optimizers()[k]
            last = counted and k == group[-1]
            with self._scale_kept(optimizer.optimizer, last):
                if last:
                    optimizer.step()
                else:  # the strategy's step keeps precision and hooks, and Lightning's loop does not count it
                    self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    @contextlib.contextmanager
    def _scale_kept(self, optimizer: Optimizer, last: bool) -> Iterator[None]:
        """Have a gradient scaler look back once a batch, at all units: it would grow N times too fast.

        It then backs off where any unit's gradients were not finite; only that unit's step is skipped. Of several
        inner steps a unit's last one decides.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and self.inner_steps > 1:  # it takes one step of an optimizer between its updates
            scaler._per_optimizer_states.pop(id(optimizer), None)
        if scaler is None or last:
            yield
            return
        scaler.update = lambda: None  # in place of its method
        try:
            yield
        finally:
            del scaler.update

    def step_schedules(self) -> None:
        """Step the schedules that go by batches, after those that ended an accumulation."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                config.scheduler.step()  # type: ignore[call-arg]  # a plateau goes by epochs

    def on_train_epoch_end(self) -> None:
        """Step the schedules that go by epochs."""
        super().on_train_epoch_end()
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                metrics = self.trainer.callback_metrics
                if self.scheduler_monitor not in metrics:
                    raise ConfigurationError(
                        f"ReduceLROnPlateau watches {self.scheduler_monitor}, which nothing logs; there are: "
                        f"{', '.join(sorted(metrics))}. Set scheduler_monitor."
                    )
                config.scheduler.step(metrics[self.scheduler_monitor])
            elif config.interval == "epoch":
                config.scheduler.step()
