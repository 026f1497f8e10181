"""How gradients become optimizer steps: one optimizer per unit in manual optimization, as if there were one in all.

Lightning leaves clipping, accumulation, schedules and the gradient scaler to modules that optimize manually. Here they
work as elsewhere: ``global_step`` rises by one per batch, however many units there are, and the Trainer's flags hold.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from intff_lightning.averaging import Replicas
from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import ConfigurationError, check_choice
from intff_lightning.lightning_compat import SavesOfManualOptimization, allow_another_step, scale_update_withheld
from intff_lightning.optim import check_clipping, check_optimizer

Handover = Literal["before", "after"]
ClipAlgorithm = Literal["norm", "value"]


class UnitTrainer(LabelClassifier):
    """Base of modules that train hidden units, each by its own optimizer.

    The arguments are those of :class:`~intff_lightning.module.IntFFModule`.
    """

    def __init__(
        self,
        inner_steps: int,
        handover: Handover,
        gradient_clip: tuple[float | None, ClipAlgorithm],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if inner_steps < 1:
            raise ConfigurationError(f"inner_steps={inner_steps} must be 1 or more.")
        check_choice("handover", handover, Handover)
        check_choice("gradient_clip_algorithm", gradient_clip[1], ClipAlgorithm)
        check_clipping(gradient_clip[0])
        self.automatic_optimization = False
        self.inner_steps, self.handover = inner_steps, handover
        self.gradient_clip_val, self.gradient_clip_algorithm = gradient_clip
        self._flags: tuple[float | None, str | None, int] | None = None
        self._averages: dict[int, Callable[[], None]] = {}
        self._due: deque[tuple[Sequence[int], int]] = deque()

    # ---------------------------------------------------------------- the Trainer's flags

    def configure_callbacks(self) -> list[Callback]:
        """Take the flags that Lightning refuses in manual optimization before it looks; :meth:`setup` returns them."""
        super().configure_callbacks()
        trainer: Any = self.trainer
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ConfigurationError(
                f"{type(trainer.strategy).__name__} takes one optimizer and backward pass; IntFF has one per unit.\n"
                "Use --trainer.strategy ddp: activations do not grow with depth, so there is less to shard."
            )
        if len(self.units) > 1 and any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):
            raise ConfigurationError(
                f"StochasticWeightAveraging takes one optimizer, and there are {len(self.units)}.\n"
                "Use EMAWeightAveraging or WeightAveraging (lightning.pytorch.callbacks): they average any number."
            )
        if any(isinstance(c, GradientAccumulationScheduler) for c in trainer.callbacks):
            raise ConfigurationError(
                "GradientAccumulationScheduler needs automatic optimization: use Trainer(accumulate_grad_batches=...)."
            )
        if trainer.accumulate_grad_batches > 1 and (self.inner_steps > 1 or self.handover == "after"):
            raise ConfigurationError(
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} postpones the step of a unit, and "
                "inner_steps > 1 or handover=after need it at once:\nchoose one of them."
            )
        self._flags = trainer.gradient_clip_val, trainer.gradient_clip_algorithm, trainer.accumulate_grad_batches
        trainer.gradient_clip_val, trainer.accumulate_grad_batches = None, 1
        known = any(isinstance(c, SavesOfManualOptimization) for c in trainer.callbacks)
        return [] if known else [SavesOfManualOptimization()]

    def setup(self, stage: str) -> None:
        """Return the Trainer's flags, by which schedules and logging go; see :meth:`Network.setup`."""
        if self._flags is not None:
            trainer: Any = self.trainer
            trainer.gradient_clip_val, _, trainer.accumulate_grad_batches = self._flags
        super().setup(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record units that were added or replaced since the network was made."""
        if self.units.changed:
            self.hparams["units"] = list(self.units)  # which the checkpoint gets as recipes
        super().on_save_checkpoint(checkpoint)

    # ---------------------------------------------------------------- gradients

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """Make one optimizer per unit, and its schedule if there is one."""
        self._averages.clear()
        self._due.clear()
        made = [
            self.make_optimizer(self.unit_parameters(k), unit.optimizer, unit.scheduler, f"lr/unit_{k}")
            for k, unit in enumerate(self.units)
        ]
        for optimizer, _ in made:
            check_optimizer(optimizer)
            if isinstance(optimizer, torch.optim.LBFGS):
                raise ConfigurationError(
                    "LBFGS needs several passes per step, and a unit has one: use torch.optim.Adam."
                )
        return [optimizer for optimizer, _ in made], [schedule for _, schedule in made if schedule is not None]

    def unit_parameters(self, k: int) -> list[nn.Parameter]:
        """Return what the optimizer of unit k trains; the first unit also trains the encoder."""
        return [*self.units[k].parameters(), *(self.encoder.parameters() if k == 0 else [])]

    def settle_groups(self) -> None:
        """Leave every optimizer the parameters of its own unit: a ``BaseFinetuning`` adds a group to each of them."""
        for k, optimizer in enumerate(self.trainer.optimizers if self._finetuned else ()):
            own = {id(p): p for p in self.unit_parameters(k)}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) in own]
                for p in group["params"]:
                    del own[id(p)]
            group["params"] += [p for p in own.values() if p.requires_grad]
        super().settle_groups()

    def unit_optimizers(self) -> list[LightningOptimizer]:
        """Return the optimizers, in a list even if there is only one."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def backward_units(
        self, loss: Tensor, units: Sequence[int], batch_idx: int, first: bool = True, last: bool = True
    ) -> None:
        """Compute the gradients of these units, accumulated over batches; begin to average them over processes.

        Args:
            loss: Scalar loss of these units.
            units: Numbers of the units.
            batch_idx: Index of the batch.
            first: Whether this is the first part of the batch's loss, or all of it; gradients of parts add up.
            last: Whether it is the last part.
        """
        every = self.trainer.accumulate_grad_batches
        parameters = [parameter for k in units for parameter in self.unit_parameters(k)]
        if first and batch_idx % every == 0:
            for parameter in parameters:
                parameter.grad = None
        if not any(parameter.requires_grad for parameter in parameters):
            return  # these units are frozen
        if not loss.requires_grad:
            raise ConfigurationError(
                f"the loss of {' and '.join(f'unit_{k}' for k in units)} does not depend on the parameters that are "
                "not frozen:\ncheck that forward uses them, and does not detach."
            )
        if every > 1:
            loss = loss / every
        replicas, strategy = self.replicas, self.trainer.strategy
        if replicas is None or not isinstance(strategy, ParallelStrategy):
            self.manual_backward(loss)
            return
        with strategy.block_backward_sync():  # DDP's reduction expects every parameter in every backward pass
            self.manual_backward(loss)
        if last and self.steps_now(batch_idx):
            self._averages[units[0]] = replicas.average(parameters)

    @property
    def replicas(self) -> Replicas | None:
        """The processes over which the gradients of the units of this process are averaged."""
        if self.stage is not None:
            return self.stage.replicas
        strategy = self.trainer.strategy
        processes = strategy.world_size if isinstance(strategy, ParallelStrategy) else 1
        return Replicas(processes) if processes > 1 else None

    def steps_now(self, batch_idx: int) -> bool:
        """Tell whether this batch ends an accumulation; the last batch of an epoch does."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or bool(self.trainer.is_last_batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of one unit; here they are unscaled whatever the precision."""
        k = next(k for k, wrapped in enumerate(self.unit_optimizers()) if wrapped.optimizer is optimizer)
        own = self.units[k].gradient_clip_val
        value = self.gradient_clip_val if own is None else own
        if value is not None:
            self.clip_gradients(optimizer, value, self.gradient_clip_algorithm)
        elif self._flags is not None and self._flags[0]:
            self.clip_gradients(optimizer, *self._flags[:2])

    # ---------------------------------------------------------------- steps

    def step_units(self, units: Sequence[int], turn: int, batch_idx: int) -> None:
        """Step the optimizers of these units if the batch ends an accumulation.

        With several processes, units take their step after the backward pass of the next ones, because their gradients
        are averaged meanwhile. This changes no value unless the next ones need weights from after the step.

        Args:
            units: Numbers of the units.
            turn: Number of the inner step, from 0.
            batch_idx: Index of the batch.
        """
        if not self.steps_now(batch_idx):
            return
        self._due.append((units, turn))
        may_wait = bool(self._averages) and self.inner_steps == 1 and self.handover == "before"
        while len(self._due) > may_wait:
            self._step_units(*self._due.popleft())

    def finish_steps(self, batch_idx: int) -> None:
        """Take the steps of a batch that wait for averaged gradients.

        The units of other processes of a pipeline have optimizers too, without gradients: they step here, so that
        schedules and ``global_step`` advance alike in all processes.
        """
        while self._due:
            self._step_units(*self._due.popleft())
        others = [k for k in range(len(self.units)) if k not in self.own_units]
        if others and self.steps_now(batch_idx):
            self._step_units(others, self.inner_steps - 1)

    def _step_units(self, units: Sequence[int], turn: int) -> None:
        """Step these optimizers.

        The batch's last step of the last unit that is not frozen is the one that ``global_step`` counts.
        """
        if units[0] in self._averages:
            self._averages.pop(units[0])()
        trained = (k for k in reversed(range(len(self.units))) if any(p.requires_grad for p in self.unit_parameters(k)))
        last = next(trained, None)
        if last is None:
            raise ConfigurationError(
                "all units are frozen, so there is nothing to train:\n"
                "unfreeze one, for example module.units[-1].requires_grad_(True)."
            )
        for k in units:
            optimizer = self.unit_optimizers()[k]
            counted = k == last and turn == self.inner_steps - 1
            if not counted and all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
                optimizer.optimizer.step(lambda: 0.0)  # a frozen unit: a gradient scaler would refuse this step
                continue
            with self._scale_kept(optimizer.optimizer, counted):
                if counted:
                    optimizer.step()
                else:  # the strategy's step keeps precision and hooks, and Lightning's loop does not count it
                    self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    @contextlib.contextmanager
    def _scale_kept(self, optimizer: Optimizer, counted: bool) -> Iterator[None]:
        """Update the gradient scale once per batch, not once per unit.

        The scale decreases if the gradients of any unit were not finite, and only the step of that unit is skipped. If
        there are several inner steps, the last one of each unit counts.
        """
        plugin = self.trainer.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        if scaler is not None and self.inner_steps > 1:
            allow_another_step(scaler, optimizer)
        with contextlib.nullcontext() if scaler is None or counted else scale_update_withheld(scaler):
            yield

    def step_schedules(self, batch_idx: int) -> None:
        """Step the schedules that count batches, if this batch ends an accumulation."""
        for config in self.trainer.lr_scheduler_configs if self.steps_now(batch_idx) else ():
            if config.interval == "step":
                config.scheduler.step()  # type: ignore[call-arg]  # a ReduceLROnPlateau counts epochs

    def on_train_epoch_end(self) -> None:
        """Step the schedules that count epochs, and those that watch a metric."""
        super().on_train_epoch_end()
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "epoch" and not isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step()
