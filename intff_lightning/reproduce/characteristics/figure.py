"""One figure for all characteristics: differences from backpropagation with their 95 % intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: no global state, no window

from intff_lightning.reporting.plots import STYLES, save
from intff_lightning.reproduce.characteristics.networks import DATASETS, NETWORKS
from intff_lightning.reproduce.characteristics.report import ALGORITHM_NAMES, PLACE_NAMES

_COLORS = {algorithm: STYLES[k] for k, algorithm in enumerate(("intff", "channels", "ff"))}


def draw_differences(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel per characteristic, network and data set; the right is where an algorithm is ahead.

    Args:
        rows: Rows of :func:`~intff_lightning.reproduce.characteristics.intervals.compare`, each with its
            ``characteristic``. Counts are not drawn. A marker is filled if an algorithm is ahead or behind.
        path: The file.
    """
    rows = [row for row in rows if row["verdict"] and row["unit"] == "share"]
    names = list(dict.fromkeys(row["characteristic"] for row in rows))
    places = [(network, dataset) for dataset in DATASETS for network in NETWORKS]
    places = [place for place in places if any((row["network"], row["dataset"]) == place for row in rows)]
    lines = {name: list(dict.fromkeys(_line(row) for row in rows if row["characteristic"] == name)) for name in names}
    heights = [len(lines[name]) for name in names]
    figure = Figure(
        figsize=(3.2 + 2.4 * len(places), 1.2 + 0.33 * sum(heights) + 0.5 * len(names)), layout="constrained"
    )
    panels = figure.subplots(len(names), len(places), squeeze=False, height_ratios=heights, sharex="row", sharey="row")
    for line, name in zip(panels, names, strict=True):
        for axes, place in zip(line, places, strict=True):
            mine = [row for row in rows if row["characteristic"] == name and (row["network"], row["dataset"]) == place]
            axes.axvline(0, color="0.4", linewidth=0.8)
            for row in mine:
                _draw(axes, row, lines[name].index(_line(row)))
            axes.grid(True, axis="x", alpha=0.3)
            axes.tick_params(labelsize=7)
            axes.set_visible(bool(mine) or axes is line[0])  # the first one has the names of the lines
        line[0].set_yticks(range(len(lines[name])), lines[name], fontsize=7)
        line[0].set_ylim(len(lines[name]) - 0.5, -0.5)
        line[0].set_title(name.replace("_", " "), loc="left", fontsize=9, fontweight="bold")
    for axes, place in zip(panels[0], places, strict=True):
        axes.set_title(", ".join(PLACE_NAMES[part] for part in place), loc="right", fontsize=7)
    for algorithm, style in _COLORS.items():
        panels[0][0].plot([], [], label=ALGORITHM_NAMES[algorithm], **{**style, "linestyle": ""})
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    figure.supxlabel("difference from backpropagation in points, positive where better", fontsize=8)
    save(figure, path)


def _line(row: dict[str, Any]) -> str:
    return f"{row['what']}: {row['measure']}"


def _draw(axes: Any, row: dict[str, Any], place: int) -> None:
    """Draw one difference, turned so that the right is better."""
    style = _COLORS[row["algorithm"]]
    sign = 100 if row["better"] == "higher" else -100
    middle = sign * row["difference"]
    ends = [middle if row[end] is None else sign * row[end] for end in ("low", "high")]
    offset = 0.25 * (list(_COLORS).index(row["algorithm"]) - 1)
    axes.errorbar(
        middle,
        place + offset,
        xerr=[[middle - min(ends)], [max(ends) - middle]],
        color=style["color"],
        marker=style["marker"],
        markersize=3.5,
        markerfacecolor="white" if row["verdict"] in ("undecided", "in doubt") else style["color"],
        linewidth=1,
    )
