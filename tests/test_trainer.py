"""What Lightning's Trainer offers, with several optimizers: each feature does what it does with one."""

import functools
import gc
from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils._python_dispatch import TorchDispatchMode

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import (
    BestCheckpoint,
    GoodnessAccuracy,
    GoodnessLogger,
    LastCheckpoint,
    LinearProbe,
    TerminalReport,
    TrainingFigures,
)
from intff_lightning.errors import ConfigurationError


def _module(units=3, **options):
    torch.manual_seed(0)
    return IntFFModule([DenseUnit([12, 8]) for _ in range(units)], **options)


class _Weights(L.Callback):
    """Keeps every batch's input and the weights after it."""

    def __init__(self):
        self.images, self.states = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.images.append(batch.image)
        self.states.append([p.detach().clone() for p in pl_module.parameters()])


@pytest.mark.slow
def test_steps_files_and_schedules_of_four_units_and_three_inner_steps(digits, trainer):
    module = _module(4, inner_steps=3, scheduler=functools.partial(OneCycleLR, max_lr=0.01))
    saves = callbacks.ModelCheckpoint("files", filename="{step}", every_n_train_steps=10, save_top_k=-1)
    rates_of_units = [[], [], [], []]

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for rates, optimizer in zip(rates_of_units, trainer.optimizers, strict=True):
                rates.append(optimizer.param_groups[0]["lr"])

    run = trainer(max_epochs=-1, max_steps=100, callbacks=[saves, Rates()], enable_checkpointing=True)
    run.fit(module, digits())
    assert run.global_step == 100
    expected = {f"step={n}.ckpt" for n in range(10, 101, 10)}
    assert {path.name for path in Path("files").iterdir()} == expected
    for rates in rates_of_units:
        assert len(rates) == 100
        assert max(rates) == pytest.approx(0.01)
        assert rates[-1] == pytest.approx(0.01 / 25 / 1e4)  # where OneCycleLR ends, in the last batch
    steps = {float(state["step"]) for optimizer in run.optimizers for state in optimizer.state.values()}
    assert steps == {300.0}


def test_checkpoints_by_time(digits, trainer):
    saves = callbacks.ModelCheckpoint("files", train_time_interval=timedelta(0), save_top_k=-1, filename="{step}")
    trainer(callbacks=[saves], enable_checkpointing=True, max_steps=5).fit(_module(), digits())
    assert {path.name for path in Path("files").iterdir()} == {f"step={n}.ckpt" for n in range(1, 6)}


def test_checkpoints_by_a_metric_that_comes_later(digits, trainer):
    saves = callbacks.ModelCheckpoint("files", monitor="val/accuracy", every_n_train_steps=10, save_top_k=-1)
    run = trainer(callbacks=[saves, GoodnessAccuracy()], enable_checkpointing=True, max_epochs=2)
    run.fit(_module(), digits())
    assert saves.best_model_score in list(saves.best_k_models.values())
    assert len(list(Path("files").iterdir())) >= 2


@pytest.mark.parametrize("options", [{"every_n_train_steps": 7}, {"train_time_interval": timedelta(0)}])
def test_the_last_checkpoint_is_of_the_last_step(options, digits, trainer):
    last = LastCheckpoint(**options)
    run = trainer(callbacks=[last], enable_checkpointing=True, max_epochs=2)
    run.fit(_module(), digits())
    assert torch.load(last.best_model_path, weights_only=True)["global_step"] == run.global_step == 38
    assert [path.name for path in Path(last.dirpath).iterdir()] == ["last.ckpt"]


def test_early_stopping(digits, trainer):
    stop = callbacks.EarlyStopping("val/accuracy", mode="max", patience=2, min_delta=1)
    run = trainer(max_epochs=50, callbacks=[GoodnessAccuracy(), stop])
    run.fit(_module(), digits())
    assert run.current_epoch == 3


def test_learning_rates_are_logged_by_unit(digits, trainer):
    watch = callbacks.LearningRateMonitor("epoch")
    module = _module(scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1))
    run = trainer(max_epochs=2, callbacks=[watch], logger=CSVLogger("logs"), log_every_n_steps=1)
    run.fit(module, digits())
    assert watch.lrs == {f"lr/unit_{k}": [pytest.approx(2e-3), pytest.approx(2e-4)] for k in range(3)}


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_averaged_weights_are_those_of_a_plain_average(digits, trainer):
    weights = _Weights()
    average = callbacks.EMAWeightAveraging(decay=0.9)
    module = _module()
    trainer(max_epochs=2, callbacks=[weights, average]).fit(module, digits())
    expected = weights.states[0]
    for state in weights.states[1:]:
        expected = [0.9 * e + 0.1 * s for e, s in zip(expected, state, strict=True)]
    for mine, theirs in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, rtol=1e-4, atol=1e-6)
    assert not torch.equal(expected[0], weights.states[-1][0])


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_the_mean_of_all_weights(digits, trainer):
    weights = _Weights()
    module = _module()
    trainer(callbacks=[weights, callbacks.WeightAveraging()]).fit(module, digits())
    expected = torch.stack([state[0] for state in weights.states]).mean(0)
    torch.testing.assert_close(next(module.parameters()).detach(), expected, rtol=1e-4, atol=1e-6)


def test_stochastic_weight_averaging(digits, trainer):
    with pytest.raises(ConfigurationError, match="takes one optimizer, and there are 3"):
        trainer(callbacks=[callbacks.StochasticWeightAveraging(1e-3)]).fit(_module(), digits())
    run = trainer(max_epochs=3, callbacks=[callbacks.StochasticWeightAveraging(1e-3)])
    run.fit(_module(1), digits())
    assert run.global_step == 57


def test_fewer_batches(digits, trainer):
    run = trainer(fast_dev_run=True)
    run.fit(_module(), digits())
    assert run.global_step == 1
    run = trainer(limit_train_batches=3, limit_val_batches=1, max_epochs=2)
    run.fit(_module(), digits())
    assert run.global_step == 6
    run = trainer(max_epochs=-1, max_time={"seconds": 0})
    run.fit(_module(), digits())
    assert run.global_step < 2


def test_overfit_batches_gives_the_same_batches_every_epoch(digits, trainer):
    seen = _Weights()
    trainer(overfit_batches=2, max_epochs=2, callbacks=[seen]).fit(_module(), digits())
    assert len(seen.images) == 4
    assert torch.equal(seen.images[0], seen.images[2])
    assert torch.equal(seen.images[1], seen.images[3])


def test_deterministic_algorithms_give_the_same_weights(digits, trainer):
    trained = []
    try:
        for deterministic in (False, True):
            module = _module()
            run = trainer(callbacks=[GoodnessLogger(), GoodnessAccuracy()], deterministic=deterministic)
            run.fit(module, digits())
            trained.append((module.state_dict(), run.callback_metrics["val/goodness/auroc/unit_0"]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(trained[0][0][name], weight) for name, weight in trained[1][0].items())
    assert trained[0][1] == trained[1][1]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_barebones(trainer):
    from intff_lightning.datamodules import DigitsDataModule

    run = L.Trainer(barebones=True, max_epochs=1, accelerator="cpu")
    run.fit(_module(), DigitsDataModule(batch_size=64))
    assert run.global_step == 19


def test_the_profiler_sees_every_units_step(digits, trainer):
    run = trainer(profiler="simple", max_steps=5)
    run.fit(_module(), digits())
    calls = run.profiler.recorded_durations
    assert len(calls["[LightningModule]IntFFModule.on_before_optimizer_step"]) == 15


class _Looks(TorchDispatchMode):
    """Counts what makes the host wait for a device: values read, and shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "unique")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.strip("_")
        by_mask = name in ("index", "index_put") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in [wait.strip("_") for wait in self.WAITS]:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class _Batches(L.Callback):
    def __init__(self, looks):
        self.looks, self.by_batch = looks, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.looks.seen.clear()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.by_batch.append(list(self.looks.seen))


def test_the_training_loop_waits_for_the_device_once_a_logging_interval(digits, trainer, monkeypatch):
    looks = _Looks()
    for name in ("tolist", "numpy", "cpu"):  # which do not pass the dispatcher on a CPU
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _n=name, _m=method, **k: (looks.seen.append(_n), _m(self, *a, **k))[1]
        )
    watch = _Batches(looks)
    module = _module(optimizer=functools.partial(torch.optim.SGD, lr=0.01))  # Adam's counters lie on the host
    with looks:
        trainer(
            callbacks=[GoodnessLogger(), GoodnessAccuracy(), watch],
            logger=CSVLogger("logs"),
            log_every_n_steps=5,
            limit_train_batches=15,
            limit_val_batches=0,
        ).fit(module, digits())
    waited = [number for number, seen in enumerate(watch.by_batch) if seen]
    assert waited == [4, 9, 14]
    assert watch.by_batch[4] == ["tolist"]


@pytest.mark.slow
def test_memory_does_not_grow_over_epochs(digits, trainer):
    counts = {}

    class Count(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch in (9, 29):
                gc.collect()
                objects = gc.get_objects()
                tensors = sum(issubclass(type(o), torch.Tensor) for o in objects)
                counts[trainer.current_epoch] = (tensors, len(objects))

    trainer(
        max_epochs=30,
        limit_train_batches=2,
        limit_val_batches=1,
        log_every_n_steps=1,
        enable_checkpointing=True,
        logger=[CSVLogger("logs"), TensorBoardLogger("logs")],
        callbacks=[GoodnessLogger(), GoodnessAccuracy(), LinearProbe(), TrainingFigures(), TerminalReport(), Count(),
                   BestCheckpoint(), LastCheckpoint()],
    ).fit(_module(), digits())  # fmt: skip
    assert counts[29][0] <= counts[9][0]
    assert counts[29][1] - counts[9][1] < 20 * 20  # a few figures an epoch, for the plots
