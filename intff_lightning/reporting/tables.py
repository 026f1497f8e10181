"""Tables of a run, for the terminal and for pages: lines of cells, and rich tables of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from intff_lightning.backprop import BackpropModule
from intff_lightning.classifier import LabelClassifier


def epoch_text(trainer: L.Trainer, seconds: float, validated: bool = True, last: bool = False) -> str:
    """Return one line about an epoch that took so many seconds.

    Lightning keeps validation metrics of earlier epochs, so ``validated`` tells whether they belong to this one. With
    ``last``, training is over and its counter is at the next epoch.
    """
    return "  ".join([epoch_name(trainer, last), *metric_texts(trainer, validated), f"{seconds:.1f} s"])


def epoch_name(trainer: L.Trainer, last: bool = False) -> str:
    """Return ``epoch 3/60``; for the arguments see :func:`epoch_text`."""
    total = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + (not last)}{total}"


def metric_texts(trainer: L.Trainer, validated: bool = True) -> list[str]:
    """Return loss and validation accuracy, if they are known; for the arguments see :func:`epoch_text`."""
    metrics = trainer.callback_metrics
    texts = [f"loss {metrics['train/loss']:.4f}"] if "train/loss" in metrics else []
    names = ("val/accuracy", "val/probe_accuracy") if validated else ()
    texts += [f"{name} {100 * metrics[name]:.2f} %" for name in names if name in metrics]
    further = [name for name in ("val/r2", "val/auroc") if validated and name in metrics]
    return [*texts, *(f"{name} {metrics[name]:.4f}" for name in further)]


def unit_table(module: nn.Module, optimizers: Sequence[Optimizer]) -> Table:
    """Make the table of a network's parts: their layers, output shapes, parameters and optimizers."""
    head, *lines, whole = unit_rows(module)
    title = "Hidden units" if isinstance(module, LabelClassifier) else "Network"
    table = Table(title=title, title_justify="left")
    for name in (*head, "optimizer"):
        table.add_column(name, justify="right" if name in ("output", "parameters") else "left")
    for line, optimizer in zip(lines, optimizers, strict=True):
        rate = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
        table.add_row(*line, f"{type(optimizer).__name__} {rate:g}")
    table.add_section()
    table.add_row(*whole, "")
    return table


def unit_rows(module: nn.Module) -> list[list[str]]:
    """Return the lines of the table of a network's parts: the head, the units (or the body), the whole network."""
    parts = {"body": module.body} if isinstance(module, BackpropModule) else {}
    if isinstance(module, LabelClassifier):
        parts = {f"unit_{k}": unit for k, unit in enumerate(module.units)}
    lines = [["", "layers", "output", "parameters"]]
    for name, unit in parts.items():
        lines.append([name, unit.describe(), "x".join(map(str, unit.output_shape)), f"{_count(unit):,}"])
    return [*lines, ["network", "", "", f"{_count(module):,}"]]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def result_table(trainer: L.Trainer, stage: str) -> Table:
    """Make the table of a stage (``val`` or ``test``) from the Trainer's metrics; units that do not vote are marked."""
    module = trainer.lightning_module
    vote = module.vote if isinstance(module, LabelClassifier) else []
    head, *lines = result_rows(trainer.callback_metrics, stage, vote)
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
    """Return the lines of :func:`result_table`: the head, the units, the network, and the linear probe, if any."""
    columns = {
        "positive\ngoodness": "goodness/positive",
        "negative\ngoodness": "goodness/negative",
        "AUROC": "goodness/auroc",
        "local\nloss": "loss",
        "accuracy": "accuracy",
    }
    quality = "accuracy"
    for title, name in (("R²", "r2"), ("AUROC of\nanomalies", "auroc")):
        if f"{stage}/{name}" in metrics:
            quality = columns[title] = name
            del columns["accuracy"]
    seen = [name.removeprefix(f"{stage}/").rpartition("/unit_")[0] for name in metrics if "/unit_" in name]
    columns = {title: name for title, name in columns.items() if name in ("loss", quality) or name in seen}
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
    lines.append(["network", *empty, loss, _number(metrics, f"{stage}/{quality}", quality)])
    further = {"mean absolute error": "mae", "coverage": "coverage", "interval width": "interval_width"}
    for title, name in (further | {"AUPR": "aupr", "FPR-95": "fpr95"}).items():
        if f"{stage}/{name}" in metrics:
            lines.append([title, *empty, "", _number(metrics, f"{stage}/{name}", name)])
    if f"{stage}/probe_accuracy" in metrics:
        lines.append(["linear probe", *empty, "", _number(metrics, f"{stage}/probe_accuracy", "accuracy")])
    return lines


def _number(metrics: Mapping[str, Any], key: str, kind: str) -> str:
    value = float(metrics.get(key, math.nan))
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if kind == "accuracy" else f"{value:.4f}"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a ``|`` in a cell is escaped, or it would start another cell."""
    rows = [[cell.replace("|", "\\|") for cell in line] for line in [header, *lines]]
    rows.insert(1, ["---"] * len(header))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
