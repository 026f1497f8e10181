"""What IntFF's module and the backpropagation baseline share: sized by their data, self-contained in checkpoints."""

import copy
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Callback,
    Checkpoint,
    LambdaCallback,
    LearningRateFinder,
    ModelPruning,
)
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from typing_extensions import Self

from intff_lightning.errors import CheckpointError, ConfigurationError, DataError, DivergenceError
from intff_lightning.functional import is_decided
from intff_lightning.lightning_compat import (
    ExampleInputs,
    datamodule_of,
    is_in_fit,
    resume_after_whole_epochs,
    validation_is_under_way,
    with_epoch_to_finish,
)
from intff_lightning.loss_record import LossRecord
from intff_lightning.optim import (
    OptimizerFactory,
    SchedulerFactory,
    check_clipping,
    group_by_decay,
    include_groups,
    make_scheduler,
)
from intff_lightning.pairs import data_share, images_to_predict
from intff_lightning.randomness import gather_random_states, random_state, restore_random_state
from intff_lightning.recipe import Recorded, accepts, differences, from_recipe, recipe_of, record, to_recipe
from intff_lightning.resumption import refuse_smaller_limits, resume_early_stopping
from intff_lightning.sequences import shape_of

Predicted = Literal["classes", "numbers", "anomaly scores"]


class StepOutput(dict[str, Tensor]):
    """What a step of :class:`~intff_lightning.module.IntFFModule` returns: a dictionary with typed names.

    Local losses ``unit_loss (U,)`` of the U units and their sum ``loss``, ``positive_goodness (U, B)`` and
    ``negative_goodness (U, B, k)``, where k may be 0. All are detached, and from before the step of an optimizer. An
    evaluation of goodness by class adds ``"label_goodness" (U, B, C)`` if it equals that of ``module.label_goodness``.
    """

    loss = property(lambda self: self["loss"])
    unit_loss = property(lambda self: self["unit_loss"])
    positive_goodness = property(lambda self: self["positive_goodness"])
    negative_goodness = property(lambda self: self["negative_goodness"])

    def copy(self) -> "StepOutput":
        """Return a copy of this type; Lightning hands a copy to callbacks."""
        return StepOutput(self)


class Network(Recorded, ExampleInputs):
    """Base of modules that classify images: implement :meth:`build`, :meth:`loss_names` and the steps.

    A subclass calls :meth:`configure_model` at the end of its constructor. ``learning_rate`` is that of Adam, if
    ``optimizer`` is ``None``; for the other arguments see :class:`~intff_lightning.module.IntFFModule`.
    """

    needed: tuple[str, ...] = ("input_shape", "num_classes")
    """Arguments that the data supply if nobody gives them, beside the ``vocabulary`` of token sequences."""

    def __init__(
        self,
        optimizer: OptimizerFactory | None,
        scheduler: SchedulerFactory | None,
        scheduler_monitor: str,
        no_decay: list[str] | None,
        learning_rate: float,
    ) -> None:
        super().__init__()
        default: OptimizerFactory = functools.partial(torch.optim.Adam, lr=learning_rate)
        self.optimizer_factory: OptimizerFactory = from_recipe(optimizer) or default
        self.scheduler_factory: SchedulerFactory | None = from_recipe(scheduler)
        self.scheduler_monitor = scheduler_monitor
        self.no_decay = [no_decay] if isinstance(no_decay, str) else list(no_decay or ())
        self._finetuned = self._built = False
        self._watched: Tensor | None = None
        self._losses: LossRecord | None = None
        self._resumed: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] = {}
        self._asked = (*self.needed, *(["vocabulary"] if accepts(type(self), "vocabulary") else []))
        unknown: dict[str, Any] = dict.fromkeys(self._asked)
        record(self, **unknown)

    @property
    def predicts(self) -> Predicted:
        """What it predicts."""
        return "classes"

    @property
    def unsupervised(self) -> bool:
        """Whether it is trained without labels, and so knows none of the classes of the data."""
        return False

    # ---------------------------------------------------------------- building

    def configure_callbacks(self) -> list[Callback]:
        """Refuse flags of the Trainer that cannot work; prepare for callbacks that look for layers early."""
        trainer: Any = self.trainer
        check_clipping(trainer.gradient_clip_val)
        if trainer.accumulate_grad_batches < 1:
            raise ConfigurationError(f"accumulate_grad_batches={trainer.accumulate_grad_batches}: give 1 or more.")
        if any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):
            raise ConfigurationError(
                "the learning-rate finder looks for one learning rate of one optimizer, which this module does not "
                "have:\ncompare a few learning rates by their val/accuracy instead."
            )
        self._finetuned = any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks)
        if any(isinstance(callback, BaseFinetuning | ModelPruning) for callback in trainer.callbacks):
            # they look at the layers in their `setup`
            trainer.callbacks.insert(0, LambdaCallback(setup=lambda trainer, module, stage: module.configure_model()))
        return []

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Make the layers for images of one shape; a class that does not ask for ``num_classes`` knows it."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Take what is :attr:`needed` from the datamodule, unless it was given."""
        self._ask_datamodule()
        if unknown := [name for name in self.needed if self.hparams[name] is None]:
            raise ConfigurationError(
                f"{unknown[0]} is unknown: wrap your data, PairedDataModule(YourDataModule()), "
                f"or give it, {type(self).__name__}(..., {unknown[0]}=...)."
            )

    def _ask_datamodule(self) -> None:
        datamodule = datamodule_of(self)
        numbers = getattr(datamodule, "regression", None)
        if numbers not in (None, self.predicts == "numbers"):
            advice = "numbers: use RegressionModule" if numbers else "classes: give the data regression=True"
            raise ConfigurationError(f"{type(self).__name__} predicts {self.predicts}, and the targets are {advice}.")
        for name in self._asked:
            mine, theirs = self.hparams[name], getattr(datamodule, name, None)
            if theirs is not None and (self._built or mine is not None) and to_recipe(mine) != to_recipe(theirs):
                raise ConfigurationError(f"the network was built for {name}={mine}, and the data has {theirs}.")
            self.hparams[name] = to_recipe(theirs if mine is None else mine)

    def configure_model(self) -> None:
        """Make the layers, once, as soon as the shape of the input is known."""
        if not self._built:
            self._ask_datamodule()  # weight averaging calls this before `setup`
        if not self._built and all(self.hparams[name] is not None for name in self.needed):
            shape = shape_of(self.hparams["input_shape"], self.hparams.get("vocabulary"))
            self.build(shape, self.hparams.get("num_classes", 0))
            self._built = True
            if self.dtype != torch.float32:  # the network was cast before its layers existed
                self.to(self.dtype)

    def bfloat16(self) -> Self:
        """Cast the network to bfloat16; Lightning would not note the new dtype."""
        return self.to(torch.bfloat16)

    def check_built(self) -> None:
        """Refuse to compute anything with layers that are not made yet."""
        if not self._built:
            raise ConfigurationError(
                f"the layers of {type(self).__name__} are not made before it knows the data: give input_shape= and "
                "num_classes=, or train it first."
            )

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter], optimizer: Any = None, scheduler: Any = None, name: str = "lr"
    ) -> tuple[Optimizer, dict[str, Any] | None]:
        """Make an optimizer, and the entry of its schedule, if it has one, for ``configure_optimizers``.

        The network's own factories stand in for an ``optimizer`` or ``scheduler`` that is ``None``. A
        ``BaseFinetuning`` adds frozen parameters later, so they are left out if there is one.
        """
        trained: list[Any] = [p for p in parameters if p.requires_grad or not self._finetuned]
        groups = group_by_decay(self, trained, self.no_decay) if self.no_decay or not trained else trained
        made: Optimizer = (from_recipe(optimizer) or self.optimizer_factory)(groups)
        factory = from_recipe(scheduler) or self.scheduler_factory
        if factory is None:
            return made, None
        schedule, interval = make_scheduler(factory, made, self.trainer.estimated_stepping_batches)
        entry = {"scheduler": schedule, "interval": interval, "name": name}
        if isinstance(schedule, ReduceLROnPlateau):
            entry["frequency"] = sys.maxsize  # on_train_epoch_end steps it, when its metric is new
        return made, entry

    def on_fit_start(self) -> None:
        """Check that ``no_decay`` has an effect; unfreeze what a ``BaseFinetuning`` had unfrozen in a resumed run."""
        if self.no_decay and not any(optimizer.defaults.get("weight_decay") for optimizer in self.trainer.optimizers):
            raise ConfigurationError(
                f"no_decay={self.no_decay} has no effect, because no optimizer has weight decay:\n"
                "give one, for example torch.optim.AdamW with weight_decay=0.01, or leave no_decay out."
            )
        if self._resumed is not None and self.trainer.ckpt_path:
            theirs, mine = self._resumed["optimizers"], len(self.trainer.optimizers)
            if theirs not in (0, mine):  # Lightning would leave some out
                raise CheckpointError(f"the checkpoint has {theirs} optimizers for the {mine} of this network.")
            BaseFinetuning.make_trainable(map(self.get_submodule, self._resumed["unfrozen"]))
        self.settle_groups()

    def on_train_epoch_start(self) -> None:
        self.settle_groups()

    def settle_groups(self) -> None:
        """Let the schedules include parameter groups that callbacks have added to the optimizers."""
        for config in self.trainer.lr_scheduler_configs:
            include_groups(config.scheduler)

    # ---------------------------------------------------------------- losses

    def loss_names(self) -> list[str]:
        """Return the names of the parts whose losses are recorded, in the order of their optimizers."""
        raise NotImplementedError

    def on_train_start(self) -> None:
        """Start the record of losses. A resumed run continues its record and its random draws."""
        self._losses = LossRecord(self.loss_names(), self.device)
        if self._resumed is not None and self.trainer.ckpt_path:
            self._losses.load_state_dict(self._resumed["losses"])
            restore_random_state(self._resumed["random"], *data_share(self.trainer))
            if self.trainer.is_last_batch:  # the run was stopped in the validation that ends an epoch
                self._log_loss()
        self._resumed = None

    def _refuse_no_batch(self) -> None:
        raise DataError(
            f"the training data gave no batch in epoch {self.current_epoch}. An IterableDataset must begin anew each "
            "time, and drop_last drops a batch that is too small."
        )

    def on_fit_end(self) -> None:
        """Say so if there was nothing to train on, or the checkpoint of a resumed run was at its end already."""
        if not self.trainer.num_training_batches and self.trainer.limit_train_batches:
            self._refuse_no_batch()
        if self._resumed is not None and self.trainer.ckpt_path:
            ended = " EarlyStopping ended this run." if self.trainer.should_stop else ""
            rank_zero_warn(
                f"nothing was trained: {self.trainer.ckpt_path} is at epoch {self.current_epoch} and step "
                f"{self.global_step}, with max_epochs={self.trainer.max_epochs} and max_steps={self.trainer.max_steps}."
                f"{ended}"
            )

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
        """Log the loss of an epoch that ended before its last batch; step the schedules whose metric is new."""
        self._log_loss()
        trainer: Any = self.trainer
        if not trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            self._refuse_no_batch()
        plateaus = [c.scheduler for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, ReduceLROnPlateau)]
        metrics = trainer.callback_metrics  # holds the values of earlier epochs until there are new ones
        value = metrics.get(self.scheduler_monitor)
        unvalidated = not trainer.enable_validation or not sum(trainer.num_val_batches)
        awaited = self._watched is not None or not (unvalidated or any(name.startswith("val/") for name in metrics))
        if plateaus and value is None and not awaited:
            raise ConfigurationError(
                f"ReduceLROnPlateau watches {self.scheduler_monitor}, which nothing logs; the metrics are: "
                f"{', '.join(sorted(metrics))}. Set scheduler_monitor."
            )
        if value is not None and value is not self._watched:
            for schedule in plateaus:
                schedule.step(value)
            self._watched = value

    def _log_loss(self) -> None:
        """Log ``train/loss``, the mean over the samples since the last call."""
        mean = None if self._losses is None else self._losses.pop_mean()
        if mean is not None:
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
            self.log("train/loss", mean[0], batch_size=mean[1], **options)

    # ---------------------------------------------------------------- prediction and checkpoints

    def on_validation_model_zero_grad(self) -> None:
        """Keep what a validation that is stopped, and repeated by the resumed run, must not change.

        This is the last hook before validation loaders are started, which draws a random number for each.
        """
        super().on_validation_model_zero_grad()
        trainer: Any = self.trainer
        states = {c.state_key: c.state_dict() for c in trainer.callbacks if not isinstance(c, Checkpoint)}
        self._before_validation = {"random": random_state(), "callbacks": copy.deepcopy(states)}

    def predictions(self, image: Tensor) -> Tensor:
        """Return what ``predict`` writes for images ``(B, *)``: scores ``(B, C)``."""
        return torch.as_tensor(self(image))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return :meth:`predictions` for a batch ``(image, ...)`` or images ``(B, *)``; refuse scores not finite."""
        scores = self.predictions(images_to_predict(batch, self))
        undecided = int((~is_decided(scores)).sum())
        if undecided:
            raise DivergenceError(
                f"the scores of {undecided} of the {len(scores)} images in batch {batch_idx} are not finite, so they "
                "have no class.\nPredict in float32 (precision: 32-true), or train again with a lower learning rate."
            )
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
            trainer: Any = self.trainer
            before = self._before_validation if trainer.validating else {}  # the resumed run repeats a validation
            if before and validation_is_under_way(trainer) and "callbacks" in checkpoint:
                for name, state in before["callbacks"].items():
                    checkpoint["callbacks"].pop(name, None)
                    checkpoint["callbacks"].update({name: state} if state else {})
            epoch, batch = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
            cut = epoch.processed == epoch.started > 0 and not trainer.is_last_batch  # by max_steps, or an early stop
            if cut and "loops" in checkpoint:
                checkpoint["loops"] = with_epoch_to_finish(trainer, checkpoint["loops"])
            accumulated = 0 if trainer.is_last_batch else batch.processed % trainer.accumulate_grad_batches
            state = before.get("random") or random_state()
            checkpoint["training"] = {
                "losses": self._losses.state_dict(with_last_mean=trainer.validating or cut),
                "accumulated": accumulated,
                "random": gather_random_states(state, *data_share(trainer)),
                "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            }
            layers = {name.rpartition(".")[0] for name, p in self.named_parameters() if p.requires_grad} - {""}
            checkpoint["training"]["unfrozen"] = sorted(layers) if self._finetuned else []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get("training")
        if is_in_fit(self):
            if not {"optimizer_states", "loops"} <= checkpoint.keys():
                raise CheckpointError(
                    "the checkpoint holds weights alone (save_weights_only), so a run cannot resume from it.\n"
                    "Train a network anew that begins with these weights (load_from_checkpoint)."
                )
            self._refuse_other_optimizers(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY) or {})
            refuse_smaller_limits(self.trainer, checkpoint)
            resume_early_stopping(self.trainer, checkpoint.get("callbacks") or {})
            if self._resumed is not None and self._resumed.get("accumulated") and not self.trainer.should_stop:
                raise CheckpointError(
                    "the checkpoint is from the middle of an accumulation (accumulate_grad_batches), and does not hold "
                    "the gradients of its first batches.\nResume from an older one, or train anew."
                )
            resume_after_whole_epochs(self)
        if self._resumed is not None:
            self._resumed["optimizers"] = len(checkpoint.get("optimizer_states", ()))

    def _refuse_other_optimizers(self, arguments: dict[str, Any]) -> None:
        """Refuse to resume with options of optimizers and schedules that their saved states would override."""
        for key, mine, theirs in differences(recipe_of(self)["init_args"], arguments) if arguments else ():
            if {"optimizer", "scheduler"} & set(key.split(".")):
                raise CheckpointError(
                    f"{key} is {mine} here and {theirs} in the checkpoint, whose run would keep its own.\n"
                    "Leave the option as it was, or train a network anew that begins with these weights "
                    "(load_from_checkpoint)."
                )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Refuse weights of another network, naming the first that differs; ``strict=False`` allows missing ones."""
        mine = self.state_dict()
        for name in sorted(mine.keys() | state_dict.keys() if strict else mine.keys() & state_dict.keys()):
            shapes = [tuple(s[name].shape) if name in s else "missing" for s in (state_dict, mine)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the checkpoint is of another network: {name} is {shapes[0]} there, and {shapes[1]} here."
                )
        return super().load_state_dict(state_dict, strict, assign)
