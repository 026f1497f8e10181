"""Plots from plain values: each function returns a matplotlib figure.

They can be read in grey and by colour-blind people: lines differ in dash, areas in hatching, and scales have one hue.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure  # pyplot would bring global state and windows
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from intff_lightning.files import atomic_write

_DASHES = ("-", "--", ":", "-.")

STYLES: list[dict[str, Any]] = [
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
        ("#882255", "p", (0, (8, 2))),
        ("#999933", "h", (0, (2, 2))),
    )
]
"""The one palette: colours, markers and dashes of lines, which can also be told apart in grey."""
_POSITIVE, _NEGATIVE = STYLES[0]["color"], STYLES[1]["color"]

Points = Sequence[tuple[float, float]]


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:])


def encode(figure: Figure, format: str) -> bytes:
    """Return what a file of the figure would hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format=format)
    return buffer.getvalue()


def training_curves(history: Mapping[str, Points]) -> dict[str, Figure]:
    """Return the figures of a training by name: local loss (the paper's Figure 3) or loss, goodness, accuracy, R²."""

    def units(prefix: str, scale: float = 1) -> dict[int, Points]:
        return {
            int(name.removeprefix(prefix)): [(epoch, scale * value) for epoch, value in points]
            for name, points in history.items()
            if name.startswith(prefix)
        }

    def whole(**names: str) -> dict[str, Points]:
        return {text: history[name] for text, name in names.items() if name in history}

    figures = {}
    local = units("train/loss/unit_")
    if local:
        figures["local_loss"] = curves("Local loss of each unit", "local loss", {"": local})
    elif losses := whole(training="train/loss", validation="val/loss"):
        figures["loss"] = curves("Loss", "loss", {}, losses)
    kinds = {kind: units(f"goodness/{kind}/unit_") for kind in ("positive", "negative")}
    if any(kinds.values()):
        kinds = {kind: lines for kind, lines in kinds.items() if lines}
        figures["goodness"] = curves("Goodness of training data", "goodness", kinds)
    votes = {
        text: [(epoch, 100 * value) for epoch, value in points]
        for text, points in whole(**{"vote": "val/accuracy", "linear probe": "val/probe_accuracy"}).items()
    }
    if votes:
        alone = {"": units("val/accuracy/unit_", 100)}
        figures["accuracy"] = curves("Validation accuracy", "accuracy (%)", alone, votes)
    if determined := whole(vote="val/r2"):
        figures["r2"] = curves("R² of validation data", "R²", {"": units("val/r2/unit_")}, determined)
    return figures


def curves(
    title: str, label: str, units: Mapping[str, Mapping[int, Points]], whole: Mapping[str, Points] | None = None
) -> Figure:
    """Draw values over epochs: lines of units by kind (``""`` for the only one) and number, and of the whole."""
    count = 1 + max((k for lines in units.values() for k in lines), default=0)
    columns = 1 + (count + len(units) + len(whole or {}) - 1) // 16
    figure = Figure(figsize=(6.2 + 0.9 * columns, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for dash, (kind, lines) in zip(_DASHES, units.items(), strict=False):
        only = len(units) == 1  # then dashes can tell units apart
        for k, points in sorted(lines.items()):
            style = {"color": colormaps["viridis"](0.85 * k / max(1, count - 1))}
            # with several kinds, the colour stands for the unit and the dash for the kind, each named once
            name = f"unit {k}" if only or dash == _DASHES[0] else None
            _line(axes, points, name, linestyle=_DASHES[k % 4] if only else dash, **style)
        if not only:
            axes.plot([], [], color="black", linestyle=dash, label=kind)
    for dash, (name, points) in zip(_DASHES, (whole or {}).items(), strict=False):
        _line(axes, points, name, color="black", linewidth=2, linestyle=dash)
    axes.legend(fontsize=8, ncols=columns, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(title=title, xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.3)
    return figure


def _line(axes: Any, points: Points, label: str | None, **style: Any) -> None:
    epochs, values = zip(*points, strict=True)
    axes.plot(epochs, values, label=label, marker="o" if len(points) == 1 else None, **style)


def run_style(i: int) -> dict[str, Any]:
    """Return the look of the i-th of several runs; the first hundred differ."""
    style = STYLES[i % len(STYLES)]
    return style | {"linestyle": STYLES[(i + i // len(STYLES)) % len(STYLES)]["linestyle"]}


def run_curves(title: str, label: str, runs: Mapping[int, Points]) -> Figure:
    """Draw a metric of several runs over epochs. A legend needs room for long names, so it is outside the figure."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for i, points in runs.items():
        style = run_style(i) | {"linewidth": 1.5, "markersize": 5, "markevery": max(1, len(points) // 8)}
        axes.plot(*zip(*points, strict=True), **style)
    axes.set(title=title, xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.3)
    return figure


def run_sample(i: int) -> Figure:
    """Draw a short piece of the line of the i-th run, for a legend."""
    figure = Figure(figsize=(0.5, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([0, 1, 2], [0, 0, 0], linewidth=1.5, markersize=5, markevery=[1], **run_style(i))
    axes.set(xlim=(0, 2))
    axes.set_axis_off()
    return figure


def goodness_histograms(
    title: str, positive: Tensor, negative: Tensor, thresholds: Sequence[float | None] = ()
) -> Figure:
    """Draw the distributions of positive ``(U, N)`` and negative goodness ``(U, M)``, one panel per unit.

    M may be 0. The threshold of a unit's loss is drawn as a line, unless it is ``None``.
    """
    count = len(positive)
    columns = min(5, max(2, math.ceil(math.sqrt(count)))) if count > 1 else 1
    lines = -(-count // columns)
    figure = Figure(figsize=(1 + 2.6 * columns, 1 + 2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in panels[count:]:
        axes.set_axis_off()
    for k, (axes, at) in enumerate(zip(panels[:count], [*thresholds, *[None] * count], strict=False)):
        both = torch.cat([positive[k], negative[k]]).float()
        # a few distant samples would squeeze all others into one bin
        top = max(float(both.kthvalue(math.ceil(0.995 * len(both))).values), 1.2 * (at or 0.0), 1e-6)
        edges = torch.linspace(min(0.0, float(both.min())), top, 41).tolist()
        for values, color, hatch, name in (
            (negative[k], _NEGATIVE, "////", "negative"),
            (positive[k], _POSITIVE, "", "positive"),
        ):
            if len(values):
                weights = [100 / len(values)] * len(values)
                style = {
                    "facecolor": to_rgba(color, 0.45),
                    "edgecolor": color,
                    "hatch": hatch,
                    "histtype": "stepfilled",
                }
                axes.hist(values.clamp(max=top).tolist(), edges, weights=weights, label=name, **style)
        if at is not None:
            axes.axvline(at, color="black", linestyle="--", linewidth=1, label="threshold")
        axes.set_title(f"unit {k}", fontsize=9)
        axes.tick_params(labelsize=7)
    figure.supxlabel("goodness (the last bin holds all larger values)", fontsize=9)
    figure.supylabel("samples (%)", fontsize=9)
    figure.suptitle(title)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8)
    return figure


def accuracy_by_unit(title: str, units: Sequence[float], vote: float, voting: Sequence[int] = ()) -> Figure:
    """Draw the accuracy in percent of each unit alone, and of the vote. Bars of units that do not vote are hatched."""
    figure = Figure(figsize=(max(4.0, 1.6 + 0.5 * (1 + len(units))), 3.8), layout="constrained")
    axes = figure.add_subplot()
    heights = [*units, vote]
    colors = ["0.6" if not voting or k in voting else "white" for k in range(len(units))] + ["0.15"]
    bars = axes.bar(range(len(heights)), heights, color=colors, edgecolor="black", width=0.75)
    for k, bar in enumerate(bars[:-1]):
        if voting and k not in voting:
            bar.set_hatch("//")
    low = min(heights)
    bottom = 0 if low < 50 else math.floor(low - max(0.5, 0.6 * (max(heights) - low)))
    for k, height in enumerate(heights):
        axes.text(k, height, f"{height:.1f}", ha="center", va="bottom", fontsize=7 if len(units) > 10 else 8)
    axes.set_xticks(range(len(heights)), [*(str(k) for k in range(len(units))), "vote"])
    silent = bool(voting) and len(set(voting)) < len(units)
    below = "unit alone (hatched: does not vote)" if silent else "unit alone"
    top = max(heights) if max(heights) > bottom else bottom + 1  # all may be 0
    axes.set(title=title, xlabel=below, ylabel="accuracy (%)", ylim=(bottom, top + 0.08 * (top - bottom)))
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def confusion_matrix(title: str, counts: Tensor) -> Figure:
    """Draw how often each class is predicted as each class, from counts ``(C, C)`` with true classes in rows."""
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    axes = figure.add_subplot()
    classes = len(counts)
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(share.numpy(), cmap="Greys", vmin=0, vmax=1)
    if classes <= 20:
        for row, column in counts.nonzero().tolist():
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=7)
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    return figure


def receptive_fields(title: str, weights: Tensor, columns: int = 16) -> Figure:
    """Draw the weights ``(N, C, H, W)`` of neurons as images, each on its own scale: grey is zero, white is positive.

    Three channels are shown as colours, any other number by their mean.
    """
    weights = weights.detach().float().cpu()
    size = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    columns = min(columns, len(weights))
    lines = -(-len(weights) // columns)
    figure = Figure(figsize=(max(6.0, 0.55 * columns + 0.4), 0.6 + 0.55 * lines), layout="constrained")
    axes = figure.add_subplot()
    pictures = _as_images(0.5 + 0.5 * weights / size)
    axes.imshow(_montage(pictures, columns, 1, 1.0).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    return figure


def input_pairs(title: str, lines: Mapping[str, Tensor], channels: int | None = None) -> Figure:
    """Draw what the network is shown: one line per kind of input ``(N, *)``, with the same sample in each column.

    ``(N, C, H, W)`` are drawn as images of ``channels`` channels, with further ones (label planes) as a strip below.
    """
    count = min(len(line) for line in lines.values())
    figure = Figure(figsize=(1.5 + 0.9 * count, 0.6 + 1.05 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), 1, squeeze=False).flatten()
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        axes.imshow(_montage(_as_images(line[:count], channels), count, 2, 0.5).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    return figure


def wrong_predictions(
    title: str, image: Tensor, target: Tensor, scores: Tensor, what: str = "goodness", columns: int = 8
) -> Figure:
    """Draw misclassified images ``(N, *)``, each with one bar per label for its score ``(N, C)``."""
    pictures = _as_images(image)
    count, (height, width) = len(pictures), pictures.shape[1:3]
    lines, columns = max(1, -(-count // columns)), min(columns, max(1, count))
    cell, chart = (1.25 * width, 2.1 * height), 0.5 * height  # room for a title, an image and its bars
    figure = Figure(figsize=(1.3 * columns, 0.8 + 1.3 * 1.7 * lines), layout="constrained")
    axes = figure.add_subplot()
    classes = scores.shape[1] if count else 1
    for i in range(count):
        left, top = (i % columns) * cell[0], (i // columns) * cell[1]
        axes.imshow(
            pictures[i].numpy(), cmap="gray", vmin=0, vmax=1, extent=(left, left + width, top + height, top), zorder=1
        )
        guess = int(scores[i].argmax())
        axes.text(
            left + width / 2, top - 0.05 * height, f"{int(target[i])} as {guess}", ha="center", va="bottom", fontsize=8
        )
        bars = scores[i] - scores[i].min().clamp(max=0)
        bars = chart * bars / bars.max().clamp(min=1e-12)
        floor = top + height + 0.1 * height + chart
        color = ["black" if c == guess else "white" if c == int(target[i]) else "0.7" for c in range(classes)]
        places = [left + (c + 0.5) * width / classes for c in range(classes)]
        axes.bar(places, (-bars).tolist(), 0.8 * width / classes, floor, color=color, edgecolor="black", linewidth=0.4)
    axes.set(xlim=(-0.1 * width, columns * cell[0]), ylim=(lines * cell[1], -0.4 * height), aspect="equal")
    axes.set_axis_off()
    legend = f"bars: {what} of the labels 0 to {classes - 1}; white: the true one; black: the predicted one"
    _set_title(figure, f"{title}\n{legend}" if count else title)
    return figure


def contact_sheet(
    names: Sequence[str], image: Tensor, scores: Tensor, what: str = "goodness", columns: int = 5
) -> Figure:
    """Draw named images ``(N, *)``, each beside bars for the scores ``(N, L)`` of its labels; the highest is black."""
    pictures, labels = _as_images(image), scores.shape[1]
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(2.5 * columns, 0.45 + 1.5 * lines), layout="constrained")
    axes = figure.add_subplot()
    tall = pictures.shape[1] / pictures.shape[2]  # an image is 1 wide, and its bars are as tall
    bars = scores - scores.amin(1, keepdim=True).clamp(max=0)
    bars = 0.8 * bars / bars.max().clamp(min=1e-12)
    for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        left, top = 2.3 * (i % columns), (tall + 0.4) * (i // columns)
        place = (left, left + 1, top + tall, top)
        axes.imshow(picture.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, extent=place, zorder=1)
        guess = int(scores[i].argmax())
        text = name if len(name) <= 16 else f"{name[:7]}...{name[-6:]}"
        axes.text(left, top - 0.06, f"{text}: {guess}", fontsize=8, va="bottom", parse_math=False)
        heights = [top + tall * (c + 0.5) / labels for c in range(labels)]
        colors = ["black" if c == guess else "0.7" for c in range(labels)]
        axes.barh(heights, bars[i].tolist(), 0.7 * tall / labels, left + 1.25, color=colors)
        if labels <= 12:
            for c, height in enumerate(heights):
                axes.text(left + 1.2, height, str(c), fontsize=6, ha="right", va="center")
    axes.set(xlim=(-0.05, 2.3 * columns - 0.15), ylim=((tall + 0.4) * lines - 0.3, -0.35), aspect="equal")
    axes.set_axis_off()
    _set_title(figure, f"What the network sees, and the {what} of each label, on one scale")
    return figure


def _set_title(figure: Figure, title: str, size: float = 10) -> None:
    """Wrap a title to the width of the figure, and make the figure higher for every line that this adds."""
    columns = int(figure.get_figwidth() * 72 / (0.55 * size))  # letters are about half as wide as they are high
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, columns)]
    more = len(lines) - len(title.splitlines())
    figure.set_figheight(figure.get_figheight() + more * 1.3 * size / 72)
    figure.suptitle("\n".join(lines), fontsize=size)


def _as_images(samples: Tensor, channels: int | None = None) -> Tensor:
    """Turn samples ``(N, *)`` into pictures ``(N, H, W, 1 or 3)``; values do not change.

    Channels after the first ``channels`` (label planes) become a strip below the picture, one field per channel.
    """
    samples = samples.detach().float().cpu()
    if samples.ndim != 4:
        return samples.view(len(samples), -1, samples.shape[-1], 1)
    picture, planes = samples.tensor_split([channels or samples.shape[1]], dim=1)
    if picture.shape[1] != 3:
        picture = picture.mean(1, keepdim=True)
    if planes.shape[1]:
        fields = planes.mean((2, 3)).unsqueeze(1)  # (N, 1, planes)
        strip = torch.nn.functional.interpolate(fields, size=samples.shape[3], mode="nearest").unsqueeze(2)
        picture = torch.cat([picture, strip.expand(-1, picture.shape[1], max(1, samples.shape[2] // 8), -1)], dim=2)
    return picture.permute(0, 2, 3, 1)


def _montage(pictures: Tensor, columns: int, gap: int, ground: float) -> Tensor:
    """Place pictures ``(N, H, W, c)`` side by side on a background of one brightness."""
    count, height, width, channels = pictures.shape
    lines = -(-count // columns)
    sheet = pictures.new_full((lines * (height + gap) - gap, columns * (width + gap) - gap, channels), ground)
    for i, picture in enumerate(pictures.clamp(0, 1)):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
