"""What a checkpoint holds, how it is written and read, and which ones a run keeps.

Beside Lightning's own keys, a checkpoint of this package holds

- ``hyper_parameters``: the module's arguments in plain values (:mod:`intff_lightning.recipe`);
- ``recipes``: ``model`` and ``data``, the recipes of the network and of its data, and ``probe``, the arguments of
  :class:`~intff_lightning.callbacks.LinearProbe`, so that a checkpoint can rebuild all of them;
- ``training``: ``losses``, the sums of the epoch so far, ``random``, the random states of all processes, and ``seed``,
  that of ``seed_everything``;
- the states of callbacks, and of the datamodule: the seed in force and the place in the epoch.

All values load under torch's ``weights_only``.
"""

import contextlib
import itertools
import os
import shutil
import signal
import threading
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from intff_lightning.errors import CheckpointError
from intff_lightning.files import atomic_write, lock_folder
from intff_lightning.lightning_compat import (
    GuardedCheckpoint,
    logged_metrics,
    logs_this_step,
    validation_follows,
    validation_is_under_way,
    with_validation_to_repeat,
)
from intff_lightning.pipeline import UnitPipelineStrategy

# -------------------------------------------------------------------- files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it to the disk, and renames it.

    Lightning writes to a temporary folder that may be on another file system, where a rename is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            StorageError: It cannot be written; an older file of this name stays whole.
        """
        if "://" in str(path):  # a remote path is Lightning's task
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            with atomic_write(Path(path)) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU; refuse a file that is none, or is damaged."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"]
    except Exception as error:  # torch's reader raises anything for a damaged file
        reason = " ".join(str(error).split()).partition(". ")[0][:120] or type(error).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged ({reason}).\nGive another one, or remove it."
        ) from None
    return checkpoint


# -------------------------------------------------------------------- the checkpoints of a run


class RunCheckpoint(GuardedCheckpoint):
    """Base of the two checkpoints: a folder that no other run is writing to.

    The folder is Lightning's. If another run has it at this moment, a new one with ``-v1``, ``-v2``, ... is taken.
    Files of earlier runs stay: Lightning adds ``-v1`` to the name of the new ones. A run that is still in
    progress cannot be resumed.
    """

    folder_lock: contextlib.ExitStack | None = None
    wanted_folder: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)
        options: Any = trainer  # its connectors add attributes that its class does not declare
        if stage == "fit" and not options.fast_dev_run and "://" not in str(self.dirpath):
            if trainer.is_global_zero:
                self._take_folder(trainer)
            self.dirpath = trainer.strategy.broadcast(self.dirpath)

    def _take_folder(self, trainer: L.Trainer) -> None:
        """Lock the folder, or share the lock of the run's other callback of this kind."""
        self.wanted_folder = self.dirpath
        for other in trainer.checkpoint_callbacks:
            if (
                isinstance(other, RunCheckpoint)
                and other.folder_lock is not None
                and other.wanted_folder == self.wanted_folder
            ):
                self.dirpath = other.dirpath
                return
        for number in itertools.count():
            self.dirpath = f"{self.wanted_folder}-v{number}" if number else self.wanted_folder
            self.folder_lock = lock_folder(Path(str(self.dirpath)))
            if self.folder_lock is not None:
                return

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of a run that is still in progress."""
        path, wanted = trainer.ckpt_path, self.wanted_folder
        if wanted and self.dirpath != wanted and Path(str(path)).absolute().parent == Path(wanted).absolute():
            raise CheckpointError(f"{path}: another process is writing to this run. Stop it, or wait.")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The dirpath has changed")  # the run resumes in a folder of its own
            super().load_state_dict(state_dict)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._unlock()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self.folder_lock is not None:
            self.folder_lock.close()
            self.folder_lock = None


class BestCheckpoint(RunCheckpoint):
    """Keeps ``best.ckpt``: the weights with the highest value of a metric, from the latest epoch that reached it.

    Accuracy on few validation samples often ties, and the weights that were trained longer are the better guess.

    Args:
        monitor: Name of the metric.
    """

    state_key = "BestCheckpoint"  # Lightning asks for it at every hook, and its own takes a while to make

    def __init__(self, monitor: str = "val/accuracy") -> None:
        super().__init__(monitor=monitor, mode="max", filename="best")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if this validation logged the metric; not every one fits a linear probe."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best weights so far along if the run resumes in another folder."""
        super().load_state_dict(state_dict)
        old, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if state_dict["dirpath"] == self.dirpath or not old.is_file():
            return
        checkpoint = read_checkpoint(old)
        if checkpoint["callbacks"][self.state_key]["best_model_score"] != score:
            return  # its run has gone on since
        with atomic_write(Path(str(self.dirpath)) / old.name) as copy:
            shutil.copyfile(old, copy)
        self.best_model_path = self.kth_best_model_path = os.path.join(str(self.dirpath), old.name)
        self.best_model_score = self.kth_value = self.current_score = score
        self.best_k_models = {self.best_model_path: score}

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Tell whether ``current`` is to be kept; a tie counts."""
        above = None if current is None else torch.nextafter(current, torch.full_like(current, torch.inf))
        return super().check_monitor_top_k(trainer, above)


class LastCheckpoint(RunCheckpoint):
    """Keeps ``last.ckpt``: the state after every epoch, and at a Ctrl-C or SIGTERM.

    A run stops where its state is consistent: between two batches (two accumulations), or in a validation, which the
    resumed run repeats. A second Ctrl-C stops it at once, and so does any other exception. Then the older ``last.ckpt``
    stays, because a unit may have taken a step that the next one has not. It also stays if an epoch is cut short
    (``max_time``, ``EarlyStopping``) inside an accumulation, whose gradients are in no checkpoint.

    Args:
        every_n_train_steps: Also save after every so many steps.
        train_time_interval: Also save whenever so much time has passed; not both.

    Attributes:
        stopped: Whether a Ctrl-C ended the training, or arrived after its last epoch.
    """

    state_key = "LastCheckpoint"

    def __init__(self, every_n_train_steps: int | None = None, train_time_interval: timedelta | None = None) -> None:
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            save_on_train_epoch_end=True,
        )
        self.stopped = False
        self._signal = _StopSignal()
        self._batch_ends = self._epoch_ends = False
        self._repeats_validation = False
        self._validations: dict[int, int] = {}  # how many ended since this step, inside one accumulation

    # ---------------------------------------------------------------- what is saved, and when

    def may_save(self, trainer: L.Trainer) -> bool:
        if self._epoch_ends and not self.best_model_path:  # even if no run can resume from it, it keeps the weights
            return True
        # resumed from a batch that a validation or the end of the epoch follows, a run would miss these
        between = (
            self._epoch_ends or self._repeats_validation or not (trainer.is_last_batch or validation_follows(trainer))
        )
        return between and _has_stepped(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after every epoch; Lightning does not if it saves by steps or time."""
        self._epoch_ends = True
        if self.is_due(trainer):
            self.save_now(trainer)
        self._epoch_ends = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a run that is stopped in a validation repeat it; add the row of metrics that loggers get a moment later.

        A run that is killed now would not find it in its table.
        """
        if self._repeats_validation:
            checkpoint["loops"] = with_validation_to_repeat(checkpoint["loops"])
        # its table also holds the row of the validation that is repeated, beside those of earlier ones at this step
        logs = self._epoch_ends or (self._batch_ends and logs_this_step(trainer))
        row = logged_metrics(trainer) if logs else {}
        checkpoint["callbacks"][self.state_key] |= {
            "row": {**row, "epoch": trainer.current_epoch, "step": trainer.global_step - 1} if row else {},
            "validations": self._validations.get(trainer.global_step - 1, 0) if self._repeats_validation else None,
        }

    # ---------------------------------------------------------------- stopping

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.stopped = False
        self._signal.watch()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batch_ends = True
        self.save_by_interval(trainer, outputs, batch, batch_idx)
        if isinstance(trainer.strategy, UnitPipelineStrategy):
            trainer.strategy.note_stop(self._signal.asked)
        if self.may_save(trainer):
            self._stop_if_asked(trainer)
        self._batch_ends = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and _has_stepped(trainer):
            self._stop_if_asked(trainer)
            if not trainer.is_last_batch:  # a save that was due after this batch comes now
                self._repeats_validation = True
                self.save_by_interval(trainer, None, None, trainer.fit_loop.batch_idx)
                self._repeats_validation = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not _has_stepped(trainer):
            self._validations = {trainer.global_step: self._validations.get(trainer.global_step, 0) + 1}

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **options: Any) -> None:
        # processes may have different numbers of batches, and can agree only before the first
        alone = trainer.world_size == 1 and not isinstance(trainer.strategy, UnitPipelineStrategy)
        if alone and validation_is_under_way(trainer) and _has_stepped(trainer):
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        """Save and end the training if any process was asked to stop. The state is consistent."""
        stop = self._agreed_stop(trainer)
        if stop is not None:
            self._save_state(trainer)
            raise stop

    def _agreed_stop(self, trainer: L.Trainer) -> type[BaseException] | None:
        strategy = trainer.strategy
        if isinstance(strategy, UnitPipelineStrategy):
            return strategy.agreed_stop(self._signal.asked, self._batch_ends)
        asked = self._signal.asked or trainer.received_sigterm
        if trainer.world_size > 1:
            asked = strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return None
        return SIGTERMException if trainer.received_sigterm else KeyboardInterrupt

    def _save_state(self, trainer: L.Trainer) -> None:
        self._repeats_validation = validation_is_under_way(trainer)
        if self.is_due(trainer):
            self.save_now(trainer)
        self._repeats_validation = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.stopped = self._signal.asked
        self._signal.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save at a stop in a validation, or by Lightning between two batches; else the older checkpoint stays."""
        self._signal.release()
        stop = isinstance(exception, KeyboardInterrupt | SIGTERMException) and trainer.state.fn == "fit"
        self.stopped = self.stopped or stop
        if stop and (validation_is_under_way(trainer) or isinstance(exception, SIGTERMException)):
            self._save_state(trainer)
        super().on_exception(trainer, pl_module, exception)


def _has_stepped(trainer: L.Trainer) -> bool:
    """Tell whether the optimizers stepped on the last batch: accumulated gradients are in no checkpoint."""
    return trainer.is_last_batch or (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0


class _StopSignal:
    """Makes the first Ctrl-C a request to stop, which training grants at its next consistent moment."""

    asked = False

    def watch(self) -> None:
        """Take over Ctrl-C, unless somebody else has done so."""
        self.asked = False
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            self.release()
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once and lose it\n")

    def release(self) -> None:
        """Give Ctrl-C back."""
        if signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)
