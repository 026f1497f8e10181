"""What IntFF's module and the backpropagation baseline share: sized by their data, self-contained in checkpoints."""

import functools
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from intff_lightning.checkpoints import random_states, restore_random_state
from intff_lightning.errors import CheckpointError, ConfigurationError
from intff_lightning.lightning_compat import datamodule_of
from intff_lightning.loss_record import LossRecord
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, make_scheduler
from intff_lightning.recipe import Recorded, from_recipe, recipe_of, record, to_recipe


class StepOutput(dict[str, Tensor]):
    """What a step of :class:`~intff_lightning.module.IntFFModule` returns: a dictionary with typed names.

    Local losses ``unit_loss (U,)`` of the U units and their sum ``loss``, ``positive_goodness (U, B)`` and
    ``negative_goodness (U, B, k)``, where k may be 0. All are detached, and from before the step of an optimizer.
    """

    loss = property(lambda self: self["loss"])
    unit_loss = property(lambda self: self["unit_loss"])
    positive_goodness = property(lambda self: self["positive_goodness"])
    negative_goodness = property(lambda self: self["negative_goodness"])

    def copy(self) -> "StepOutput":
        """Return a copy of this type; Lightning hands a copy to callbacks."""
        return StepOutput(self)


class Network(Recorded, L.LightningModule):
    """Base of modules that classify images: implement :meth:`build`, :meth:`loss_names` and the steps.

    A subclass calls :meth:`configure_model` at the end of its constructor. ``learning_rate`` is that of Adam, if
    ``optimizer`` is ``None``; for the other arguments see :class:`~intff_lightning.module.IntFFModule`.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory | None,
        scheduler: SchedulerFactory | None,
        scheduler_monitor: str,
        learning_rate: float,
    ) -> None:
        super().__init__()
        default: OptimizerFactory = functools.partial(torch.optim.Adam, lr=learning_rate)
        self.optimizer_factory: OptimizerFactory = from_recipe(optimizer) or default
        self.scheduler_factory: SchedulerFactory | None = from_recipe(scheduler)
        self.scheduler_monitor = scheduler_monitor
        self._built = False
        self._losses: LossRecord | None = None
        self._resumed: dict[str, Any] | None = None
        record(self, input_shape=None, num_classes=None)

    # ---------------------------------------------------------------- building

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Make the layers for images of one shape."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Take the shape of an image and the number of classes from the datamodule, unless they were given."""
        self._ask_datamodule()
        for name in ("input_shape", "num_classes"):
            if self.hparams[name] is None:
                raise ConfigurationError(
                    f"{name} is unknown: wrap your data, PairedDataModule(YourDataModule()), "
                    f"or give it, {type(self).__name__}(..., {name}=...)."
                )

    def _ask_datamodule(self) -> None:
        datamodule = datamodule_of(self)
        for name in ("input_shape", "num_classes"):
            mine, theirs = self.hparams[name], getattr(datamodule, name, None)
            if mine is not None and theirs is not None and to_recipe(mine) != to_recipe(theirs):
                raise ConfigurationError(f"the network was built for {name}={mine}, and the data has {theirs}.")
            self.hparams[name] = to_recipe(theirs if mine is None else mine)

    def configure_model(self) -> None:
        """Make the layers, once, as soon as the shape of the input is known."""
        if not self._built:
            self._ask_datamodule()  # weight averaging calls this before `setup`
        input_shape, num_classes = self.hparams["input_shape"], self.hparams["num_classes"]
        if not self._built and input_shape is not None and num_classes is not None:
            self.build(tuple(input_shape), num_classes)
            self._built = True

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter], optimizer: Any = None, scheduler: Any = None, name: str = "lr"
    ) -> tuple[Optimizer, dict[str, Any] | None]:
        """Make an optimizer, and the entry of its schedule, if it has one, for ``configure_optimizers``.

        The network's own factories stand in for an ``optimizer`` or ``scheduler`` that is ``None``.
        """
        made: Optimizer = (from_recipe(optimizer) or self.optimizer_factory)(parameters)
        factory = from_recipe(scheduler) or self.scheduler_factory
        if factory is None:
            return made, None
        schedule, interval = make_scheduler(factory, made, self.trainer.estimated_stepping_batches)
        return made, {"scheduler": schedule, "interval": interval, "name": name}

    # ---------------------------------------------------------------- losses

    def loss_names(self) -> list[str]:
        """Return the names of the parts whose losses are recorded, in the order of their optimizers."""
        raise NotImplementedError

    def on_train_start(self) -> None:
        """Start the record of losses. A resumed run continues its record and its random draws."""
        self._losses = LossRecord(self.loss_names(), self.device)
        if self._resumed is not None and self.trainer.ckpt_path:
            self._losses.load_state_dict(self._resumed["losses"])
            restore_random_state(self._resumed["random"], self.global_rank)
        self._resumed = None

    def record_losses(self, losses: Tensor, size: int, batch_idx: int) -> None:
        """Record the detached losses of a training step, one per name of :meth:`loss_names`, means over the samples.

        Where a logging interval ends, a run that diverged is stopped; where an epoch ends, ``train/loss`` is logged.
        """
        trainer: Any = self.trainer
        assert self._losses is not None  # training has started
        self._losses.add(losses, size, self.global_step)
        every = trainer.log_every_n_steps  # 0 means never
        if trainer.is_last_batch or (every > 0 and (batch_idx + 1) % every == 0):  # a check waits for the device
            rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
            self._losses.check(self.global_step, rates)
        if trainer.is_last_batch:
            self._log_loss()

    def on_train_epoch_end(self) -> None:
        """Log the loss of an epoch that ended before its last batch."""
        self._log_loss()

    def _log_loss(self) -> None:
        """Log ``train/loss``, the mean over the samples since the last call."""
        mean = None if self._losses is None else self._losses.pop_mean()
        if mean is not None:
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
            self.log("train/loss", mean[0], batch_size=mean[1], **options)

    # ---------------------------------------------------------------- prediction and checkpoints

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return scores ``(B, C)`` for a batch ``(image, ...)`` or a tensor of images ``(B, *)``."""
        scores: Tensor = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how the network and its data were built, in plain values, and the state of training."""
        recipes = {"model": recipe_of(self)}
        datamodule = datamodule_of(self)
        if isinstance(datamodule, Recorded):
            recipes["data"] = recipe_of(datamodule)
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = recipes["model"]["init_args"]
        checkpoint.setdefault("recipes", {}).update(recipes)  # callbacks have added theirs before
        if self._losses is not None and self.trainer.state.fn == "fit":  # not in a test that follows training
            checkpoint["training"] = {"losses": self._losses.state_dict(), "random": random_states()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another network, and name the first parameter that differs."""
        self._resumed = checkpoint.get("training")
        theirs, mine = checkpoint["state_dict"], self.state_dict()
        for name in sorted(mine.keys() | theirs.keys()):
            shapes = [tuple(s[name].shape) if name in s else "missing" for s in (theirs, mine)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the checkpoint is of another network: {name} is {shapes[0]} there, and {shapes[1]} here."
                )
