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

__all__ = [
    "TerminalReport",
    "epoch_name",
    "epoch_text",
    "metric_texts",
    "result_rows",
    "result_table",
    "unit_rows",
    "unit_table",
]


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
        self._begun, self._validated = time.perf_counter(), False

    on_train_start = on_train_epoch_start  # of an epoch resumed in its middle no start is told

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        if self.epoch_lines and trainer.is_global_zero:
            print(epoch_text(trainer, time.perf_counter() - self._begun, self._validated), flush=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the test's table."""
        self._print(trainer, pl_module, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the validation's table, unless it is part of a fit."""
        self._validated = True
        if trainer.state.fn != "fit":
            self._print(trainer, pl_module, "val")

    def _print(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            table = result_table(trainer.callback_metrics, stage, list(getattr(module, "vote", [])))
            (self.console or Console()).print(table)


def epoch_text(trainer: L.Trainer, seconds: float, validated: bool = True, last: bool = False) -> str:
    """One line on an epoch.

    Args:
        trainer: whose metrics are shown.
        seconds: it took.
        validated: whether the validation's metrics are of this epoch: Lightning keeps those of earlier ones.
        last: the training is over, and its counter stands at the next epoch.
    """
    return "  ".join([epoch_name(trainer, last), *metric_texts(trainer, validated), f"{seconds:.1f} s"])


def epoch_name(trainer: L.Trainer, last: bool = False) -> str:
    """``epoch 3/60``; for the arguments see :func:`epoch_text`."""
    total = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + (not last)}{total}"


def metric_texts(trainer: L.Trainer, validated: bool = True) -> list[str]:
    """Loss and validation accuracy, where they are known; for the arguments see :func:`epoch_text`."""
    metrics = trainer.callback_metrics
    texts = [f"loss {metrics['train/loss']:.4f}"] if "train/loss" in metrics else []
    names = ("val/accuracy", "val/probe_accuracy") if validated else ()
    return [*texts, *(f"{name} {100 * metrics[name]:.2f} %" for name in names if name in metrics)]


def unit_table(module: Any, optimizers: Sequence[Optimizer]) -> Table:
    """Build the table of a network's units: their layers, shapes, parameters and optimizers.

    Args:
        module: with ``units``, or with one ``body``.
        optimizers: one per unit.
    """
    head, *lines, whole = unit_rows(module)
    table = Table(title="Hidden units" if hasattr(module, "units") else "Network", title_justify="left")
    for name in (*head, "optimizer"):
        table.add_column(name, justify="right" if name in ("output", "parameters") else "left")
    for line, optimizer in zip(lines, optimizers, strict=True):
        rate = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
        table.add_row(*line, f"{type(optimizer).__name__} {rate:g}")
    table.add_section()
    table.add_row(*whole, "")
    return table


def unit_rows(module: Any) -> list[list[str]]:
    """Lines of the table of a network's parts: the head, the units (or the body), the whole."""
    parts = {f"unit_{k}": unit for k, unit in enumerate(getattr(module, "units", []))} or {"body": module.body}
    lines = [["", "layers", "output", "parameters"]]
    for name, unit in parts.items():
        lines.append([name, unit.describe(), "x".join(map(str, unit.output_shape)), f"{_count(unit):,}"])
    return [*lines, ["network", "", "", f"{_count(module):,}"]]


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def result_table(metrics: Mapping[str, Any], stage: str, vote: Sequence[int] = ()) -> Table:
    """Build the table of one stage from the metrics that the callbacks logged.

    Args:
        metrics: ``trainer.callback_metrics``, or the last values in ``metrics.csv``.
        stage: ``val`` or ``test``.
        vote: units that vote, marked where not all of them do.
    """
    head, *lines = result_rows(metrics, stage, vote)
    table = Table(title={"val": "Validation", "test": "Test"}[stage])
    for title in head:
        table.add_column(title, justify="right" if title else "left")
    units = [line for line in lines if line[0].startswith("unit_")]
    for line in units:
        table.add_row(*line)
    table.add_section()
    for line in lines[len(units) :]:
        table.add_row(*line, style="bold" if line[0] == "network" else None)
    return table


def result_rows(metrics: Mapping[str, Any], stage: str, vote: Sequence[int] = ()) -> list[list[str]]:
    """Lines of :func:`result_table`, its head first: the units', the network's, the probe's."""
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
    lines = [["", *columns]]
    units = 0
    while any(f"{stage}/{name}/unit_{units}" in metrics for name in columns.values()):
        cells = [_number(metrics, f"{stage}/{name}/unit_{units}", name) for name in columns.values()]
        silent = bool(vote) and units not in vote
        lines.append([f"unit_{units}{' (no vote)' if silent else ''}", *cells])
        units += 1
    empty = [""] * (len(columns) - 2)
    loss = _number(metrics, f"{stage}/loss", "loss")
    lines.append(["network", *empty, loss, _number(metrics, f"{stage}/accuracy", "accuracy")])
    if f"{stage}/probe_accuracy" in metrics:
        lines.append(["linear probe", *empty, "", _number(metrics, f"{stage}/probe_accuracy", "accuracy")])
    return lines


def _number(metrics: Mapping[str, Any], key: str, kind: str) -> str:
    value = float(metrics.get(key, math.nan))
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if kind == "accuracy" else f"{value:.4f}"
