"""Writing what was measured: JSON and Markdown, with the command, versions and machine that gave it."""

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from matplotlib.figure import Figure  # not pyplot: no global state, no window
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.table import Table

_STYLES = [  # told apart in grey, and by the colour-blind
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in (
        ("#0072b2", "o", "-"),
        ("#e69f00", "s", "--"),
        ("#000000", "^", ":"),
        ("#009e73", "D", "-."),
        ("#cc79a7", "v", (0, (5, 1))),
        ("#56b4e9", "P", (0, (1, 3))),
        ("#d55e00", "X", (0, (3, 1, 1, 1))),
        ("#7f7f7f", "*", (0, (4, 2, 1, 2, 1, 2))),
    )
]


@dataclass(frozen=True)
class Panel:
    """Lines over one quantity, by default on logarithmic axes: what grows in proportion is a line of slope 1."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[Sequence[float], Sequence[float]]]
    """By name, which has one style in all panels of a figure: places and values."""
    logarithmic: bool = True


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation, and extremes."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "min": min(values), "max": max(values)}


def write(name: str, out: Path, rows: list[dict[str, Any]], note: str = "") -> None:
    """Print rows as a table and write ``NAME.json`` and ``NAME.md``."""
    columns = list(rows[0])
    about = {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({**about, "note": note, "rows": rows}, indent=1) + "\n")
    cells = [[_text(row[column]) for column in columns] for row in rows]
    lines = [
        f"# {name}",
        "",
        f"`{about['command']}`, {about['date']}, {about['machine']}, torch {torch.__version__}.",
        "",
    ]
    lines += [note, ""] if note else []
    lines += ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")
    table = Table(*columns, title=name)
    for line in cells:
        table.add_row(*line)
    Console().print(table)
    print(f"written: {out / name}.json and .md")


def draw_lines(path: Path, panels: Sequence[Panel], columns: int = 3) -> None:
    """Save panels side by side, ``columns`` in a row, with one legend below them."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = dict(zip(names, _STYLES, strict=False))
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
    """Save a chart of ratios, a panel for each group: median, least and most of every name, beside the line at 1."""
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
    axes.set(xlabel=label, xlim=(0, 1.1 * longest))  # with room for the number behind it
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"written: {path}")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
