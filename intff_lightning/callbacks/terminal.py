"""TerminalReport: what a person sees on the terminal."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch.optim import Optimizer

__all__ = ["TerminalReport", "result_table", "unit_table"]


class TerminalReport(Callback):
    """Prints the units before training, a line an epoch, and the results after a test or a validation of its own.

    Args:
        epoch_lines: print loss, accuracy and seconds of every epoch, for logs and batch systems, where no progress
            bar is shown.
        console: of rich; ``None`` is standard output.
    """

    def __init__(self, epoch_lines: bool = True, console: Console | None = None) -> None:
        self.epoch_lines, self.console = epoch_lines, console

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what is about to be trained."""
        if trainer.is_global_zero and (hasattr(pl_module, "units") or hasattr(pl_module, "body")):
            (self.console or Console()).print(unit_table(pl_module, trainer.optimizers))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    on_train_start = on_train_epoch_start  # of an epoch resumed in its middle no start is told

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        if not self.epoch_lines or not trainer.is_global_zero:
            return
        total = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        parts = [f"epoch {trainer.current_epoch + 1}{total}"]
        metrics = trainer.callback_metrics
        if "train/loss" in metrics:
            parts.append(f"loss {metrics['train/loss']:.4f}")
        for name in ("val/accuracy", "val/probe_accuracy"):
            if name in metrics:
                parts.append(f"{name} {100 * metrics[name]:.2f} %")
        print("  ".join([*parts, f"{time.perf_counter() - self._begun:.1f} s"]), flush=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the test's table."""
        self._print(trainer, pl_module, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the validation's table, unless it is part of a fit."""
        if trainer.state.fn != "fit":
            self._print(trainer, pl_module, "val")

    def _print(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            table = result_table(trainer.callback_metrics, stage, list(getattr(module, "vote", [])))
            (self.console or Console()).print(table)


def unit_table(module: Any, optimizers: Sequence[Optimizer]) -> Table:
    """Build the table of a network's units: their layers, parameters and optimizers.

    Args:
        module: with ``units``, or with one ``body``.
        optimizers: one per unit.
    """
    units = {f"unit_{k}": unit for k, unit in enumerate(getattr(module, "units", []))} or {"body": module.body}
    table = Table(title="Hidden units" if "unit_0" in units else "Network", title_justify="left")
    for name in ("", "layers", "parameters", "optimizer", "learning rate"):
        table.add_column(name, justify="right" if name in ("parameters", "learning rate") else "left")
    for (name, unit), optimizer in zip(units.items(), optimizers, strict=True):
        count = sum(parameter.numel() for parameter in unit.parameters())
        rate = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
        table.add_row(name, unit.describe(), f"{count:,}", type(optimizer).__name__, f"{rate:g}")
    table.add_section()
    total = sum(parameter.numel() for parameter in module.parameters())
    table.add_row("network", "", f"{total:,}", "", "")
    return table


def result_table(metrics: Mapping[str, Any], stage: str, vote: list[int]) -> Table:
    """Build the table of one stage from the metrics that the callbacks logged.

    Args:
        metrics: ``trainer.callback_metrics``, or a row of ``metrics.csv``.
        stage: ``val`` or ``test``.
        vote: units that vote, marked where not all of them do.
    """
    columns = {
        "positive\ngoodness": "goodness/positive",
        "negative\ngoodness": "goodness/negative",
        "AUROC": "goodness/auroc",
        "local\nloss": "loss",
        "accuracy": "accuracy",
    }
    seen = [name.removeprefix(f"{stage}/").rpartition("/unit_")[0] for name in metrics if "/unit_" in name]
    columns = {title: name for title, name in columns.items() if name in ("loss", "accuracy") or name in seen}
    if "loss" not in seen:
        columns = {"loss" if name == "loss" else title: name for title, name in columns.items()}
    table = Table(title={"val": "Validation", "test": "Test"}[stage])
    table.add_column("")
    for title in columns:
        table.add_column(title, justify="right")
    units = 0
    while any(f"{stage}/{name}/unit_{units}" in metrics for name in columns.values()):
        units += 1
    for k in range(units):
        cells = [_number(metrics, f"{stage}/{name}/unit_{k}", name) for name in columns.values()]
        silent = bool(vote) and k not in vote
        table.add_row(f"unit_{k}{' (no vote)' if silent else ''}", *cells)
    table.add_section()
    empty = [""] * (len(columns) - 2)
    loss = _number(metrics, f"{stage}/loss", "loss")
    table.add_row("network", *empty, loss, _number(metrics, f"{stage}/accuracy", "accuracy"), style="bold")
    if f"{stage}/probe_accuracy" in metrics:
        probe = _number(metrics, f"{stage}/probe_accuracy", "accuracy")
        table.add_row("linear probe", *empty, "", probe)
    return table


def _number(metrics: Mapping[str, Any], key: str, kind: str) -> str:
    value = float(metrics.get(key, math.nan))
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if kind == "accuracy" else f"{value:.4f}"
