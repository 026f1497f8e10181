"""The table of a run that is stopped, killed and resumed is that of a run that is not stopped."""

import contextlib
import csv
import functools
import os
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import TensorDataset

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import BestCheckpoint, GoodnessAccuracy, LastCheckpoint
from intff_lightning.checkpoints import read_checkpoint
from intff_lightning.cli.loggers import ResumableCSVLogger
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import CheckpointError

N = 33  # 9 training batches and 2 validation batches of 3 samples
DATA = TensorDataset(torch.rand(N, 1, 4, 5, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3)


class Killed(BaseException):
    """Stands for SIGKILL: no callback saves anything."""


class Stop(L.Callback):
    def __init__(self, hook, count, how):
        self.left, self.how = count, how
        setattr(self, hook, self.reached)

    def reached(self, trainer, *_):
        self.left -= not trainer.sanity_checking
        if self.left == 0 and not trainer.sanity_checking:
            if self.how is Killed:
                raise Killed
            os.kill(os.getpid(), self.how)


class StepLoss(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        module.log("step_loss", outputs["loss"], on_step=True, on_epoch=False)


def _run(folder, *callbacks, path=None, every=None, **options):
    """Train as the command line does; return the weights, the table and the last checkpoint."""
    torch.manual_seed(0)
    kept = [BestCheckpoint("val/accuracy"), LastCheckpoint(every)]
    checkpoint = read_checkpoint(path) if path else {"global_step": None, "callbacks": {"LastCheckpoint": {}}}
    last = checkpoint["callbacks"]["LastCheckpoint"]
    table = ResumableCSVLogger(Path(folder), 0, checkpoint["global_step"], last.get("row"), last.get("validations"))
    run = L.Trainer(
        **{"max_epochs": 2, "val_check_interval": 4, **options},
        accelerator="cpu",
        logger=table,
        callbacks=[GoodnessAccuracy(), StepLoss(), *kept, *callbacks],
        log_every_n_steps=1,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = IntFFModule(
        [DenseUnit([7, 6], activation="RReLU"), DenseUnit([5])],
        input_shape=[1, 4, 5],
        num_classes=3,
        optimizer=functools.partial(torch.optim.Adam, lr=0.02),
    )
    with contextlib.suppress(SystemExit, Killed):
        run.fit(module, PairedDataModule(train=DATA, val_size=6, batch_size=3), ckpt_path=path)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    text = (Path(table.log_dir) / "metrics.csv").read_text().splitlines()
    rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(text)]
    return module.state_dict(), rows, kept[0].best_model_score, kept[1].best_model_path


@pytest.mark.parametrize(
    ("stops", "options"),
    [
        # in the batch before a validation
        ([("on_train_batch_start", 4, signal.SIGTERM)], {}),
        # between the validations of one accumulation
        ([("on_train_batch_start", 6, signal.SIGTERM)], {"accumulate_grad_batches": 3}),
        # in a validation, and again after it, before anything was saved
        ([("on_validation_batch_end", 2, signal.SIGTERM), ("on_train_batch_start", 1, Killed)], {}),
        (
            [("on_validation_batch_end", 2, signal.SIGTERM), ("on_train_epoch_end", 1, Killed)],
            {"val_check_interval": 1.0},
        ),
        (
            [("on_validation_batch_end", 6, signal.SIGTERM), ("on_train_batch_start", 1, Killed)],
            {"accumulate_grad_batches": 3, "val_check_interval": 2},
        ),
        # killed in a validation that follows a save by interval
        ([("on_validation_batch_end", 3, Killed)], {"every": 2}),
    ],
)
def test_stops_around_a_validation(stops, options):
    weights, rows, best, _ = _run("whole", **options)
    path = None
    for stop in stops:
        path = _run("stopped", Stop(*stop), path=path, **options)[3] or path
    resumed = _run("stopped", path=path, **options)
    assert all(torch.equal(resumed[0][name], weight) for name, weight in weights.items())
    assert resumed[1] == rows
    assert resumed[2] == best


def _patience(epochs):
    return EarlyStopping("val/loss", patience=epochs, min_delta=100.0, verbose=False)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_an_epoch_that_early_stopping_cut_short_is_finished_with_the_same_steps(accumulated):
    options = {"accumulate_grad_batches": accumulated}
    weights, rows, *_ = _run("whole", _patience(9), **options)
    *_, path = _run("stopped", _patience(1), **options)
    resumed, table, *_ = _run("stopped", _patience(9), path=path, **options)
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())
    cut = [row for row in table if row not in rows]  # the epoch's end when it was cut short
    assert [row for row in table if row not in cut] == rows
    assert [(row["epoch"], "train/loss" in row) for row in cut] == [("0", True)]


@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_an_epoch_that_was_cut_short_inside_an_accumulation():
    options = {"accumulate_grad_batches": 3}
    *_, path = _run("first", _patience(1), **options)  # after 8 batches: there is no older checkpoint
    assert read_checkpoint(path)["global_step"] == 2
    _run("first", _patience(1), path=path, **options)  # it stays ended
    with pytest.raises(CheckpointError, match="middle of an accumulation"):
        _run("first", _patience(9), path=path, **options)
    weights, *_ = _run("whole", _patience(9), **options)
    *_, path = _run("second", _patience(1), every=1, **options)  # the older one stays
    resumed, *_ = _run("second", _patience(9), path=path, **options)
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())
