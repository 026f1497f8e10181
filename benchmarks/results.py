"""What benchmarks share: options, and writing what was measured with the command behind it."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure  # pyplot would bring global state and windows
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.table import Table

from intff_lightning.reporting.plots import STYLES, save
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reporting.tables import markdown_table


def add_quick(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="the shape of it in seconds; its figures mean nothing")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


@dataclass(frozen=True)
class Panel:
    """Lines over one quantity, by default on logarithmic axes, where proportional growth is a line of slope 1."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[Sequence[float], Sequence[float]]]
    """Places and values by name; a name has the same style in all panels of a figure."""
    logarithmic: bool = True


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return mean, sample standard deviation, and extremes."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "min": min(values), "max": max(values)}


def write(name: str, out: Path, rows: list[dict[str, Any]], note: str = "", **more: Any) -> None:
    """Print rows as a table and write ``NAME.json``, which also holds ``more``, and ``NAME.md``."""
    columns = list(rows[0])
    facts = {"command": "python -m benchmarks " + " ".join(sys.argv[1:]), **about()}
    threads = torch.get_num_threads()
    facts["machine"] += f", {threads} thread{'s' if threads > 1 else ''}"
    text = markdown(name, facts, rows, note)
    paths = write_results(name, out, {**facts, "note": note, **more, "rows": rows}, text)
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    Console().print(table)
    print("written: " + ", ".join(str(path) for path in paths))


def markdown(name: str, facts: dict[str, Any], rows: list[dict[str, Any]], note: str) -> str:
    """Return rows as a Markdown document, with the command and the machine that gave them."""
    columns = list(rows[0])
    made = f"`{facts['command']}`, {facts['date']}, {facts['machine']}, torch {facts['versions']['torch']}."
    lines = [f"# {name}", "", made, "", *([note, ""] if note else [])]
    return "\n".join([*lines, markdown_table(columns, [[_text(row[column]) for column in columns] for row in rows])])


def draw_lines(path: Path, panels: Sequence[Panel], columns: int = 3) -> None:
    """Save panels side by side, ``columns`` in a row, with one legend below them."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = dict(zip(names, STYLES, strict=False))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines + 0.3 * -(-len(names) // 3)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=False):
        for name, (places, values) in panel.lines.items():
            (handles[name],) = axes.plot(places, values, label=name, **styles[name])
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.grid(True, alpha=0.3)
        if panel.logarithmic:
            axes.set(xscale="log", yscale="log")
            places = sorted({place for line, _ in panel.lines.values() for place in line})
            axes.set_xticks(places, [f"{place:g}" for place in places], fontsize=8)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    _save(figure, path)


def draw_ratios(path: Path, groups: dict[str, dict[str, tuple[float, float, float]]], label: str) -> None:
    """Save a chart of ratios, one panel per group: median, smallest and largest by name, beside the line at 1."""
    sizes = [len(ratios) for ratios in groups.values()]
    figure = Figure(figsize=(7, 0.5 * len(groups) + 0.36 * sum(sizes) + 0.5), layout="constrained")
    grid = figure.subplots(len(groups), sharex=True, squeeze=False, height_ratios=[0.8 + size for size in sizes])
    for axes, (title, ratios) in zip(grid.flatten(), groups.items(), strict=True):
        median, least, most = zip(*ratios.values(), strict=True)
        whiskers = [
            [m - a for m, a in zip(median, least, strict=True)],
            [b - m for m, b in zip(median, most, strict=True)],
        ]
        bars = axes.barh(range(len(ratios)), median, xerr=whiskers, color="#56b4e9", ecolor="#000000", capsize=2)
        axes.bar_label(bars, [f" {m:.2f}" for m in median], fontsize=8)
        axes.set_yticks(range(len(ratios)), list(ratios), fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="#000000", linestyle=":")
        axes.set_title(title, fontsize=9)
    longest = max(most for ratios in groups.values() for _, _, most in ratios.values())
    axes.set(xlabel=label, xlim=(0, 1.1 * longest))  # leaves room for the number
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    save(figure, path)
    print(f"written: {path}")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
