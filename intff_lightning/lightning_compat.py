"""Every use of a private attribute or file of Lightning, torch, scikit-learn or argparse, in one place.

Each entry names the version that it was checked against; ``tests/test_lightning_compat.py`` fails by the entry's name
when a newer version changes it.
"""

import contextlib
import gzip
import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import CombinedLoader, rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from intff_lightning.files import new_folder

# -------------------------------------------------------------------- torch 2.14.1


def children_by_name(module: nn.Module) -> dict[str, nn.Module]:
    """Return all child modules by name. ``named_children`` leaves out a module that stands there twice."""
    return {name: child for name, child in module._modules.items() if child is not None}


def is_watched(module: nn.Module) -> bool:
    """Tell whether the module has forward hooks, so that it must be called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def allow_recompilations(count: int) -> None:
    """Let ``torch.compile`` keep that many versions of one function. Units share the code of their forward pass."""
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, count)


@contextlib.contextmanager
def scale_update_withheld(scaler: Any) -> Iterator[None]:
    """Step optimizers under a gradient scaler without updating its scale."""
    scaler.update = lambda: None  # hides the method of the class
    try:
        yield
    finally:
        del scaler.update


def allow_another_step(scaler: Any, optimizer: Optimizer) -> None:
    """Let a gradient scaler step an optimizer that it has stepped since its last update."""
    scaler._per_optimizer_states.pop(id(optimizer), None)


def set_learning_rates(schedule: LRScheduler, rates: list[float | Tensor]) -> None:
    """Give a schedule and its optimizer these learning rates, one per parameter group, without a step."""
    schedule._last_lr = rates
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


# -------------------------------------------------------------------- Lightning 2.6.6


def datamodule_of(module: L.LightningModule) -> Any:
    """Return the datamodule of the run that a module is in, or ``None``."""
    trainer: Any = module._trainer
    return None if trainer is None else trainer.datamodule


def training_loaders(module: L.LightningModule) -> int:
    """Return the number of loaders from which a training module gets its batches; 0 if it is in no training."""
    trainer: Any = module._trainer
    training = trainer is not None and trainer.training and trainer.train_dataloader is not None
    return len(CombinedLoader(trainer.train_dataloader).flattened) if training else 0


def is_in_fit(module: L.LightningModule) -> bool:
    """Tell whether a Trainer fits the module at the moment."""
    return module._trainer is not None and module._trainer.state.fn == "fit"


def parsed_hyperparameters(owner: Any) -> dict[str, Any]:
    """Return a module's saved hyperparameters if the command line parsed them, or nothing if Python code made it."""
    return dict(owner.hparams) if "_instantiator" in owner.hparams else {}


class ExampleInputs(L.LightningModule):
    """A module whose example inputs are those of ``forward``, and no batches: a datamodule must not convert them.

    Lightning gives an index with every batch of a loader, and none with ``example_input_array`` and the like.
    """

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int | None = None) -> Any:
        return batch if dataloader_idx is None else super()._on_before_batch_transfer(batch, dataloader_idx)

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int | None = None
    ) -> Any:
        if dataloader_idx is None:
            return move_data_to_device(batch, device or self.device)
        return super()._apply_batch_transfer_handler(batch, device, dataloader_idx)


_AUTOMATIC: Any = SimpleNamespace(automatic_optimization=True)


class SavesOfManualOptimization(Callback):
    """Makes every ``ModelCheckpoint`` save by step and by time, as in automatic optimization.

    In manual optimization Lightning ignores the time, and warns about saves by step. ``ModelCheckpoint`` asks the
    module nothing but whether it optimizes automatically, so a stand-in says yes.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        for callback in trainer.checkpoint_callbacks:
            if type(callback).on_train_batch_end is ModelCheckpoint.on_train_batch_end:
                callback.on_train_batch_end(trainer, _AUTOMATIC, *batch)


class GuardedCheckpoint(ModelCheckpoint):
    """A ``ModelCheckpoint`` whose subclasses may refuse a save, ask whether one is due, and save at will."""

    def may_save(self, trainer: L.Trainer) -> bool:
        """Tell whether this moment is a consistent one; subclasses override it."""
        return True

    def _should_skip_saving_checkpoint(self, trainer: L.Trainer) -> bool:
        return super()._should_skip_saving_checkpoint(trainer) or not self.may_save(trainer)

    def is_due(self, trainer: L.Trainer) -> bool:
        """Tell whether a save would do anything now: not in a sanity check, and not twice at one step."""
        return not self._should_skip_saving_checkpoint(trainer)

    def save_by_interval(self, trainer: L.Trainer, *batch: Any) -> None:
        """Save after a training step, if the number of steps or the time since the last save says so."""
        ModelCheckpoint.on_train_batch_end(self, trainer, _AUTOMATIC, *batch)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save, whatever the interval."""
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def validation_is_under_way(trainer: L.Trainer) -> bool:
    """Tell whether a validation within a fit has begun, and its metrics have not been computed yet."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    ended = progress.is_last_batch and progress.current.completed == progress.current.ready
    return trainer.state.fn == "fit" and trainer.validating and not ended


def validation_follows(trainer: L.Trainer) -> bool:
    """Tell whether a validation follows the training batch that is about to end."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None  # it trains
    empty = trainer.val_dataloaders is not None and not sum(trainer.num_val_batches)
    return not empty and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def with_validation_to_repeat(loops: dict[str, Any]) -> dict[str, Any]:
    """Return the loops of a checkpoint that was saved during a validation, as they were before its first batch."""
    fit = dict(loops["fit_loop"])
    name = "epoch_loop.val_loop.batch_progress"
    progress = {**fit[name], "is_last_batch": False}
    for part in ("total", "current"):  # Lightning takes one batch more begun than ended for a validation to resume
        done = 0 if part == "current" else progress[part]["completed"]
        progress[part] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    return {**loops, "fit_loop": {**fit, name: progress}}


def with_epoch_to_finish(trainer: L.Trainer, loops: dict[str, Any]) -> dict[str, Any]:
    """Return the loops of a checkpoint whose last epoch was cut short as begun: Lightning counts it as a whole one.

    If a validation by interval follows its last batch, the resumed run ends this batch again and counts its step again.
    """
    fit = dict(loops["fit_loop"])
    stops, trainer.should_stop = trainer.should_stop, False  # a stop asks for a validation too
    if validation_follows(trainer):
        state = fit["epoch_loop.state_dict"]
        fit["epoch_loop.state_dict"] = {**state, "_batches_that_stepped": state["_batches_that_stepped"] - 1}
    trainer.should_stop = stops
    parts = {name: {**part, "processed": part["started"] - 1} for name, part in fit["epoch_progress"].items()}
    parts = {name: {**part, "completed": part["processed"]} for name, part in parts.items()}
    return {**loops, "fit_loop": {**fit, "epoch_progress": parts}}


def resume_after_whole_epochs(module: L.LightningModule) -> None:
    """Let a run with ``max_steps`` resume after its last finished epoch: Lightning would count that one twice.

    Only the two lines of Lightning that decide this ask whether a run ends by its number of steps.
    """
    module.trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def logs_this_step(trainer: L.Trainer) -> bool:
    """Tell whether loggers will be given metrics at the end of this training step."""
    return bool(trainer._logger_connector.should_update_logs)


def leave_processes_alone(launcher: Any) -> None:
    """Keep Lightning from killing all processes when one of them has ended: the strategy watches over them itself."""
    if isinstance(launcher, _SubprocessScriptLauncher):
        watched, launcher.procs = launcher.procs, list(launcher.procs)
        watched.clear()


def take_sigterm(trainer: L.Trainer) -> bool:
    """Tell whether a SIGTERM has arrived, and keep Lightning from stopping this process alone at its next batch."""
    connector = trainer._signal_connector
    arrived, connector.received_sigterm = connector.received_sigterm, False
    return arrived


def logged_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the metrics that loggers will be given at the end of this training step or epoch."""
    metrics = trainer._logger_connector.metrics["log"]
    return {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}


def is_first_process() -> bool:
    """Tell whether this is the process of rank 0; before a Trainer is made, by the environment."""
    decorator: Any = rank_zero_only  # Lightning keeps the rank on it
    return bool(decorator.rank == 0)


def take_version(logger: CSVLogger | TensorBoardLogger, checkpoint: str | Path | None) -> None:
    """Give a logger without a version that of the checkpoint's run, or a new one, whose folder no other run can get.

    A ``CSVLogger`` always gets a new one, because it would delete the table of the run.
    """
    if logger._version is None and is_first_process():
        run = Path(checkpoint or "").absolute().parent.parent
        resumes = isinstance(logger, TensorBoardLogger) and run.parent == Path(logger.root_dir).absolute()
        folder = run if resumes else new_folder(Path(logger.root_dir))
        number = folder.name.removeprefix("version_")
        logger._version = int(number) if number.isdigit() else folder.name


class CompatCLI(LightningCLI):
    """A ``LightningCLI`` with public names for what its subclasses need."""

    def value(self, key: str, default: Any = None) -> Any:
        """Return an instantiated value of the running subcommand's configuration."""
        return self._get(self.config_init, key, default=default)

    def make_trainer(self, options: dict[str, Any]) -> L.Trainer:
        """Make the Trainer with exactly these options."""
        return self._instantiate_trainer(options, [])

    def save_config(self, path: Any) -> None:
        """Write the running subcommand's configuration to a file."""
        subcommand = self.subcommand
        options = {"overwrite": True, "skip_none": False, "skip_validation": True}  # parsing has validated it
        self._parser(subcommand).save(self.config[subcommand], path, **options)

    def _dump_config(self) -> None:
        """Write the hyperparameters without a second validation, which would take most of the time."""
        if not hasattr(self, "config_dump"):
            options = {"skip_link_targets": False, "skip_none": False, "skip_validation": True, "format": "yaml"}
            dump = yaml.safe_load(self.parser.dump(self.config, **options))
            self.config_dump = dump[self.subcommand] if self.subcommand else dump

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the hyperparameters of a checkpoint override the user's arguments."""


def quiet() -> None:
    """Show warnings without the line that gave them, and silence those of Lightning that a user cannot act on.

    This holds for the rest of the process, so it is for the command line.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    threading.excepthook = report_unless_storing
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # data in memory needs none
        ".*isinstance\\(treespec, LeafSpec\\).*",  # torch warns Lightning
        ".*could not find the monitored key.*",  # without validation data, the last weights are kept
        ".*callbacks used to create the checkpoint need to be provided.*",  # an evaluation needs none of them
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",  # two loggers share a folder on purpose, and a resumed run keeps its own
        "The dirpath has changed.*",  # a run from another checkpoint than last.ckpt has its own folder and best
        ".*WeightAveraging callback with a model that overrides.*",  # nothing is sharded here
        "Total length of `list` across ranks is zero.*",  # no validation data, because the user wants none
    ):
        warnings.filterwarnings("ignore", message=message)
    if not torch.cuda.is_available():  # Lightning makes every optimizer step ask the driver again
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def report_unless_storing(failure: threading.ExceptHookArgs) -> None:
    """Report the error of a thread, unless a file could not be written: TensorBoard hands it on to its logger."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


# -------------------------------------------------------------------- scikit-learn 1.9


def scikit_learn_digits() -> tuple[Tensor, Tensor]:
    """Return the images ``(N, 8, 8)`` of 0 to 16, and the labels, of scikit-learn: its import takes a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    with gzip.open(Path(str(package.origin)).parent / "datasets/data/digits.csv.gz", "rt") as file:
        rows = torch.as_tensor(np.loadtxt(file, delimiter=",", dtype=np.int64))
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]


# -------------------------------------------------------------------- argparse of Python 3.11, jsonargparse 4.53


def parse_given(parser: LightningArgumentParser, argv: list[str]) -> dict[str, Any]:
    """Parse arguments without defaults, and without asking for what is required."""
    given: dict[str, Any] = parser.parse_args(argv, defaults=False, _skip_validation=True).as_dict()
    return given


def option_names(parser: LightningArgumentParser) -> set[str]:
    """Return the names of all options of a parser and its subcommands."""
    names = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    if parser._subparsers:
        for subparser in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
            names |= option_names(subparser)
    return names
