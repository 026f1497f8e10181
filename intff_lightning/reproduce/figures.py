"""The paper's figures 3 and 4, and the tables beyond it as pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure  # not pyplot: no global state, no window

from intff_lightning.corruptions import PaperMixture
from intff_lightning.datamodules import InMemoryDataset, MNISTDataModule
from intff_lightning.reporting.plots import STYLES, save
from intff_lightning.reproduce.rounds import GROUP

# by algorithm, and whether goodness is by class
_STYLES: dict[tuple[str, bool], dict[str, Any]] = {
    ("intff", False): {"label": "IntFF", **STYLES[0]},
    ("intff", True): {"label": "IntFF, channels", **STYLES[3]},
    ("ff", False): {"label": "FF", **STYLES[1]},
    ("ff", True): {"label": "FF, channels", **STYLES[4]},
    ("bp", False): {"label": "BP", **STYLES[2]},
}


def draw_losses(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw figure 3: the mean local loss of every unit over the epochs, one panel per network."""
    lines, columns = -(-len(rows) // 2), min(2, len(rows))
    figure = Figure(figsize=(5.2 * columns, 3.8 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(panels, rows, strict=False):
        count = len(row["unit_losses"])
        for k, losses in enumerate(row["unit_losses"]):
            color = colormaps["viridis"](0.8 * k / max(1, count - 1))
            style = ("-", "--", ":", "-.")[k % 4]
            axes.plot(range(1, len(losses) + 1), losses, style, color=color, label=f"unit {k}")
        axes.set(
            title=f"{row['network']}, {row['procedure']}", xlabel="epoch", ylabel="mean local loss", ylim=(0, None)
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(True, alpha=0.3)
        axes.legend()
    save(figure, path)


def draw_corruptions(data_dir: str, path: Path, seed: int = 0, columns: int = 10) -> list[dict[str, Any]]:
    """Draw figure 4: samples of the paper's corrupted training set, one line per kind.

    Returns:
        For each kind, its name, number of samples, and mean and standard deviation of the pixels.
    """
    datamodule = MNISTDataModule(data_dir, val_size=0, seed=seed, corruption=PaperMixture())
    datamodule.prepare_data()
    corrupted = datamodule.dataset("train")
    assert isinstance(corrupted, InMemoryDataset)
    each = len(corrupted) // 4
    names = ["clean", "Gaussian pixels", "unloaded rows", "noise images, random labels"]
    sizes = [len(corrupted) - 3 * each, each, each, each]
    figure = Figure(figsize=(columns * 0.9, 5.2), layout="constrained")
    grid = figure.subplots(4, columns)
    rows, start = [], 0
    for name, size, line in zip(names, sizes, grid, strict=True):
        image = corrupted.image[start : start + size]
        for i, axes in enumerate(line):
            axes.imshow(image[i, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(int(corrupted.target[start + i]), fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name.replace(", ", ",\n").replace(" ", "\n", 1), fontsize=8)
        share = size / len(corrupted)
        std, mean = torch.std_mean(image)
        rows.append({"kind": name, "samples": size, "share": share, "mean": float(mean), "std": float(std)})
        start += size
    figure.suptitle("Training images and the labels that they carry")
    save(figure, path)
    return rows


def draw_robustness(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw test accuracy against the corrupted share, and under each corruption alone.

    Rows trained by the author's procedure are drawn only for algorithms that have no others.
    """
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    shares, kinds = figure.subplots(1, 2, width_ratios=[1.2, 1])
    ours = {row["algorithm"] for row in rows if row["procedure"] != "author"}
    rows = [row for row in rows if row["procedure"] != "author" or row["algorithm"] not in ours]
    lines: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["algorithm"], row["procedure"] == "channels"), []).append(row)
    names = list(dict.fromkeys(row["corruption"] for row in rows if row["corruption"] not in ("clean", "mixture")))
    for place, kind in enumerate(kind for kind in _STYLES if kind in lines):
        mine, style, offset = lines[kind], _STYLES[kind], 0.6 * (place + 0.5) / len(lines) - 0.3
        line = sorted((row for row in mine if row["corruption"] in ("clean", "mixture")), key=lambda row: row["rate"])
        mean, std = [r["accuracy_mean"] for r in line], [r["accuracy_std"] for r in line]
        shares.errorbar([100 * row["rate"] for row in line], mean, std, capsize=3, **style)
        alone = [row for name in names for row in mine if row["corruption"] == name]
        mean, std = [r["accuracy_mean"] for r in alone], [r["accuracy_std"] for r in alone]
        kinds.errorbar(
            [names.index(row["corruption"]) + offset for row in alone],
            mean,
            std,
            capsize=3,
            **{**style, "linestyle": ""},
        )
    shares.set(title="The paper's mixture", xlabel="corrupted training samples (%)", ylabel="test accuracy (%)")
    rates = {row["corruption"]: row["rate"] for row in rows}
    kinds.set(title="Each corruption alone", ylabel="test accuracy (%)")
    labels = [f"{name.replace('_', chr(10))}\n{100 * rates[name]:.0f} %" for name in names]
    kinds.set_xticks(range(len(names)), labels)
    for axes in (shares, kinds):
        axes.grid(True, alpha=0.3)
        axes.legend()
    save(figure, path)


def draw_rounds(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw test accuracy and live neurons over the rounds, one column of two panels per network.

    Args:
        rows: Rounds of :class:`~intff_lightning.reproduce.rounds.RoundRecord`, each with its ``seed`` and the columns
            of :data:`~intff_lightning.reproduce.rounds.GROUP`.
        path: The file.
    """
    groups: dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), {}).setdefault(row["seed"], []).append(row)
    figure = Figure(figsize=(1.8 + 2.7 * len(groups), 4.8), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharex="col")
    for (above, below), (group, seeds) in zip(panels.T, groups.items(), strict=True):
        runs = list(seeds.values())
        at = [row["round"] for row in runs[0]]

        def mean(name: str, runs: list[list[dict[str, Any]]] = runs) -> list[float]:
            return [fmean(row[name] for row in rows) for rows in zip(*runs, strict=True)]

        for run in runs:
            above.plot(at, [row["test"] for row in run], color="0.7", linewidth=0.8)
        above.plot([], [], color="0.7", linewidth=0.8, label="each seed")
        above.plot(at, mean("test"), color="black", label="mean")
        if "test_unit_0" in runs[0][0]:
            above.plot(at, mean("test_unit_0"), "--", color=STYLES[0]["color"], label="mean,\nunit 0 alone")
        final = [run[-1]["test"] for run in runs]
        above.set_title(f"{_STYLES[group[0], False]['label']} {group[1]}", fontsize=9)
        above.set_ylim(max(0, min(final) - 15), 100)
        layers = [name for name in runs[0][0] if name.startswith("live_")]
        for layer, style in zip(layers, STYLES, strict=False):
            every = max(1, len(at) // 6)
            below.plot(at, mean(layer), **style, markevery=every, markersize=4, label=f"layer {layer[5:]}, mean")
        for run in runs:  # the seeds differ most in the first layer
            below.plot(at, [row[layers[0]] for row in run], color="0.7", linewidth=0.8, zorder=1)
        below.plot([], [], color="0.7", linewidth=0.8, label="layer 1,\neach seed")
        below.set(xlabel="round", ylim=(0, None))
        below.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel("test accuracy (%)")
    panels[1, 0].set_ylabel("live neurons")
    for line in panels:
        for axes in line:
            axes.grid(True, alpha=0.3)
        fullest = max(line, key=lambda axes: len(axes.get_legend_handles_labels()[0]))
        line[-1].legend(*fullest.get_legend_handles_labels(), fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def draw_ablation(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the test accuracy of every variant as a bar, the best at the top."""
    rows = sorted(rows, key=lambda row: row["accuracy_mean"])
    kinds = list(dict.fromkeys(row["network"].partition(" | ")[0] for row in rows))
    figure = Figure(figsize=(9, 1.2 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for kind, hatch, grey in zip(sorted(kinds), ("", "//", "..", "xx"), ("0.35", "0.55", "0.75", "0.9"), strict=False):
        mine = [(place, row) for place, row in enumerate(rows) if row["network"].startswith(f"{kind} |")]
        places, lengths = [place for place, _ in mine], [row["accuracy_mean"] for _, row in mine]
        spread = [row["accuracy_std"] for _, row in mine]
        axes.barh(places, lengths, xerr=spread, color=grey, hatch=hatch, edgecolor="black", label=kind, capsize=2)
        for place, row in mine:
            axes.text(
                row["accuracy_mean"] + row["accuracy_std"] + 0.5, place, f"{row['accuracy_mean']:.1f}", va="center"
            )
    axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes.set(xlabel="test accuracy (%)", xlim=(0, 108), title="Unit | label encoding | negatives | local loss")
    axes.margins(y=0.01)
    figure.legend(loc="outside lower center", ncols=len(kinds))
    save(figure, path)


def draw_tuning(trials: Sequence[dict[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """Draw the best validation accuracy so far over the trials of each algorithm, by its name, of a study."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for style, name in zip(STYLES, dict.fromkeys(row["algorithm"] for row in trials), strict=False):
        mine = [row for row in trials if row["algorithm"] == name]
        place = [row["trial"] + 1 for row in mine]
        axes.plot(
            place, [row["best_so_far"] or math.nan for row in mine], label=names[name], drawstyle="steps-post", **style
        )
    axes.set(xlabel="trial", ylabel="best validation accuracy so far (%)")
    axes.grid(True, alpha=0.3)
    axes.legend()
    save(figure, path)
