"""The progress bar on a terminal: what it shows, and that it gives the terminal back."""

import io
import re
from types import SimpleNamespace

import lightning as L
import pytest
from conftest import ROOT
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, TerminalReport, UnitProgress, pace
from intff_lightning.cli import main

CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[?25l", "\x1b[?25h"


class _Refresh(L.Callback):
    """Draws after every batch and validation, as time would on a longer run."""

    def __init__(self, bar):
        self.bar = bar

    def on_train_batch_end(self, *_):
        if self.bar._live is not None:
            self.bar._live.refresh()


def _run(trainer, width=80, extra=(), **options):
    screen = io.StringIO()
    bar = UnitProgress(Console(file=screen, force_terminal=True, width=width, color_system=None, legacy_windows=False))
    callbacks = [GoodnessLogger(), GoodnessAccuracy(), bar, _Refresh(bar), *extra]
    return trainer(callbacks=callbacks, enable_progress_bar=True, **options), screen


@pytest.mark.parametrize("width", [80, 160])
def test_loss_accuracy_time_left_and_the_units(width, digits, trainer):
    run, screen = _run(trainer, width, max_epochs=2)
    module = IntFFModule([DenseUnit([20]), DenseUnit([9])])
    run.fit(module, digits(batch_size=32))
    text = screen.getvalue()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text.replace("\r", "\n").splitlines()]
    assert max(map(len, lines)) <= width
    assert re.search(r"epoch 2/2 .* \d+/39 +loss \d\.\d{4}  val/accuracy \d+\.\d\d %", "\n".join(lines))
    assert any(re.fullmatch(r"[\d,]+ images/s  0:00:\d\d left *", line) for line in lines)
    assert any("unit_1" in line and "%" in line for line in lines)
    assert re.fullmatch(r"epoch 2/2  loss \d\.\d{4}  val/accuracy \d+\.\d\d %  \d+\.\d s", lines[-1])
    assert text.rfind(CURSOR_SHOWN) > text.rfind(CURSOR_HIDDEN)
    shown = float(re.findall(r"val/accuracy ([\d.]+)", lines[-1])[0])
    assert shown == pytest.approx(100 * float(run.callback_metrics["val/accuracy"]), abs=0.006)


def test_the_last_line_is_of_the_last_epoch_alone(digits, trainer, monkeypatch):
    monkeypatch.setattr(pace.Pace, "seconds", 2.5)
    run, screen = _run(trainer, max_epochs=3, check_val_every_n_epoch=2)  # the last epoch has no validation
    run.fit(IntFFModule([DenseUnit([9])]), digits())
    assert re.search(r"epoch 3/3  loss \d\.\d{4}  2\.5 s\s*$", screen.getvalue())


def test_without_a_terminal_a_long_epoch_has_a_line_per_minute(digits, trainer, monkeypatch, capsys):
    class Clock(L.Callback):
        seconds = 0.0

        def on_train_batch_start(self, *_):
            self.seconds += 8

    clock = Clock()
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    run = trainer(callbacks=[clock, TerminalReport()], max_epochs=2, limit_train_batches=20, log_every_n_steps=1)
    run.fit(IntFFModule([DenseUnit([9])]), digits(batch_size=32))
    lines = [re.sub(r"  loss [\d.]+", "", line) for line in capsys.readouterr().out.splitlines() if "epoch " in line]
    assert lines == [
        "epoch 1/2  batch 8/20  4 images/s  0:04:16 left",
        "epoch 1/2  batch 16/20  4 images/s  0:03:12 left",
        "epoch 1/2  160.0 s",
        "epoch 2/2  batch 8/20  4 images/s  0:01:36 left",
        "epoch 2/2  batch 16/20  4 images/s  0:00:32 left",
        "epoch 2/2  160.0 s",
    ]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_leaves_nothing_behind(stage, digits, trainer):
    run, screen = _run(trainer)
    module, data = IntFFModule([DenseUnit([9])], input_shape=[1, 10, 10], num_classes=10), digits()
    options = {} if stage == "predict" else {"verbose": False}
    getattr(run, stage)(module, data, **options)
    text = screen.getvalue()
    name = {"validate": "validation", "test": "test", "predict": "prediction"}[stage]
    assert name in text
    assert text.rfind(CURSOR_SHOWN) > text.rfind(CURSOR_HIDDEN)
    assert text.endswith("\x1b[2K")  # the line is erased


def test_an_error_gives_the_terminal_back(digits, trainer):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("as it happens")

    run, screen = _run(trainer, extra=[Stop()])
    with pytest.raises(RuntimeError, match="as it happens"):
        run.fit(IntFFModule([DenseUnit([9])]), digits())
    assert screen.getvalue().rfind(CURSOR_SHOWN) > screen.getvalue().rfind(CURSOR_HIDDEN)


def test_other_processes_than_the_first_are_silent(digits, trainer):
    run, screen = _run(trainer)
    run.progress_bar_callback.disable()
    run.fit(IntFFModule([DenseUnit([9])]), digits())
    assert screen.getvalue() == ""


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_from_the_command_line_a_bar_of_the_users_own_takes_its_place(capsys):
    command = ["fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "1"]
    assert main([*command, "--trainer.enable_progress_bar", "true", "--test_after_fit", "false"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("epoch 1/1") == 1  # one line, from the bar
    assert main([*command, "--trainer.enable_progress_bar", "false", "--test_after_fit", "false"]) == 0
    assert capsys.readouterr().out.count("epoch 1/1") == 1
    own = f"{RichProgressBar.__module__}.{RichProgressBar.__name__}"
    for options in (["--trainer.enable_progress_bar", "true"], []):  # a bar that is given is wanted, terminal or not
        assert main([*command, *options, "--trainer.callbacks", own, "--test_after_fit", "false"]) == 0
        assert "epoch 1/1" not in capsys.readouterr().out


@pytest.mark.usefixtures("blank_figures")
def test_barebones_from_the_command_line():
    command = ["fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "1"]
    with pytest.warns(UserWarning, match="barebones"):
        assert main([*command, "--trainer.barebones", "true"]) == 0
