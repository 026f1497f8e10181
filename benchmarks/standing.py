"""Test accuracies of the configs beside published ones of local learning, with the protocol of each.

It trains nothing: it reads what ``benchmarks accuracy`` has written. The figure shows our accuracies over the time of
training. Published ones are lines, because their papers name no time that could be compared.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import summary, write
from intff_lightning.reporting.plots import STYLES, save

HELP = "accuracies of the configs beside published ones"


@dataclass(frozen=True)
class Published:
    """A test accuracy in percent as its paper gives it.

    Args:
        data: Data set.
        method: Name, authors and year or arXiv number.
        accuracy: Percent.
        protocol: What is trained, and on what.
    """

    data: str
    method: str
    accuracy: float
    protocol: str


PUBLISHED = (
    Published("MNIST", "IntFF (Tang 2023)", 98.00, "the paper's dense network"),
    Published("MNIST", "Channel-wise (2024)", 99.42, "convolution, goodness by class"),
    Published("MNIST", "Trifecta (2023)", 99.58, "convolution"),
    Published("MNIST", "DeeperForward (2025)", 99.65, "convolution of up to 17 layers"),
    Published("MNIST", "ASGE (2509.12394)", 99.65, "convolution"),
    Published("MNIST", "predsim (1901.06656)", 99.69, "VGG8B, cross-entropy and similarity per layer"),
    Published("MNIST", "Distance-Forward (2024)", 99.7, "convolution"),
    Published("Fashion-MNIST", "Channel-wise (2024)", 92.31, "convolution, goodness by class"),
    Published("Fashion-MNIST", "DeeperForward (2025)", 93.13, "convolution of up to 17 layers"),
    Published("Fashion-MNIST", "ASGE (2509.12394)", 93.41, "convolution"),
    Published("Fashion-MNIST", "predsim (1901.06656)", 95.35, "VGG8B, cross-entropy and similarity per layer"),
    Published("MNIST without labels", "SCFF (2025)", 98.7, "convolution, contrastive pairs, linear probe"),
    Published("CIFAR-10", "Channel-wise (2024)", 78.11, "convolution, goodness by class"),
    Published("CIFAR-10", "DeeperForward (2025)", 86.22, "17 convolutional layers, no augmentation"),
    Published("CIFAR-10", "Distance-Forward (2024)", 88.2, "convolution"),
    Published("CIFAR-10", "ASGE (2509.12394)", 90.62, "convolution"),
    Published("CIFAR-10", "DTG-FF (2606.06539)", 91.8, "convolution, a GPU"),
    Published("CIFAR-10", "SEDONA", 93.87, "convolution, blocks of several layers"),
    Published("CIFAR-10", "predsim (1901.06656)", 94.42, "VGG8B, cross-entropy and similarity per layer"),
    Published("CIFAR-10", "BWBPF", 95.52, "convolution, blocks of several layers"),
    Published("CIFAR-10, dense layers", "FAUST", 56.22, "dense layers"),
    Published("CIFAR-10 without labels", "SCFF (2025)", 80.8, "convolution, contrastive pairs, linear probe"),
)
"""Training and validation images of the papers were not checked."""

_HELD_OUT = "validation images are held out and choose the epoch"
_CIFAR = f"40,000 images of batches 1 to 4, of which {_HELD_OUT}; tested on batch 5"
OURS: dict[str, tuple[str, str]] = {  # config: data set, protocol
    "mnist": ("MNIST", f"the paper's dense network; {_HELD_OUT}"),
    "mnist_conv": ("MNIST", f"three units of two convolutions; {_HELD_OUT}"),
    "mnist_conv_bp": ("MNIST", f"backpropagation, the same layers; {_HELD_OUT}"),
    "fashion_mnist": ("Fashion-MNIST", f"dense; {_HELD_OUT}"),
    "fashion_mnist_conv": ("Fashion-MNIST", f"three units of two convolutions; {_HELD_OUT}"),
    "fashion_mnist_conv_bp": ("Fashion-MNIST", f"backpropagation, the same layers; {_HELD_OUT}"),
    "mnist_unsupervised": ("MNIST without labels", f"dense, linear probe; {_HELD_OUT}"),
    "cifar10_conv": ("CIFAR-10", f"convolution; {_CIFAR}"),
    "cifar10_conv_bp": ("CIFAR-10", f"backpropagation, the same layers; {_CIFAR}"),
    "cifar10_dense": ("CIFAR-10, dense layers", f"dense, mean of 18 views of an image; {_CIFAR}"),
    "cifar10_dense_bp": ("CIFAR-10, dense layers", f"backpropagation, the same layers and views; {_CIFAR}"),
    "cifar10_unsupervised": ("CIFAR-10 without labels", f"convolution, rotations, linear probe; {_CIFAR}"),
    "cifar10_unsupervised_bp": ("CIFAR-10 without labels", f"backpropagation, the same layers and task; {_CIFAR}"),
}


def measured(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each config of :data:`OURS` whose accuracy is in the folder; two if it averages views."""
    rows = []
    for config, (data, protocol) in OURS.items():
        path = folder / f"accuracy_{config}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        seeds = found["rows"]
        minutes = summary([row["training s"] for row in seeds])["mean"] / 60
        columns = [("test accuracy %", config, protocol)]
        if "one view %" in seeds[0]:
            columns.append(("one view %", f"{config}, one view", "the same networks; one view of an image"))
        for column, name, how in columns:
            accuracy = summary([row[column] for row in seeds])
            rows.append(
                {
                    "data": data,
                    "method": f"intff_lightning, {name}",
                    "accuracy %": accuracy["mean"],
                    "std": accuracy["std"] if len(seeds) > 1 else None,
                    "seeds": len(seeds),
                    "minutes": minutes,
                    "threads": int(found["machine"].rpartition(", ")[2].split()[0]),
                    "protocol": how,
                }
            )
    return rows


def sentence(data: str, ours: Sequence[dict[str, Any]]) -> str:
    """Say which published figures the best config of a data set is ahead of, and which it is behind."""
    best = max((row for row in ours if "_bp" not in row["method"]), key=lambda row: float(row["accuracy %"]))
    others = [published for published in PUBLISHED if published.data == data]
    mine = round(best["accuracy %"], 2)
    parts = []
    for word, chosen in (
        ("ahead of", [p for p in others if p.accuracy < mine]),
        ("equal to", [p for p in others if p.accuracy == mine]),
        ("behind", [p for p in others if p.accuracy > mine]),
    ):
        names = [f"{p.method} {p.accuracy:.2f}" for p in sorted(chosen, key=lambda p: p.accuracy)]
        if names:
            parts.append(f"{word} {', '.join(names)}")
    name = best["method"].partition(", ")[2]
    seeds = f"{best['seeds']} seed{'s' if best['seeds'] > 1 else ''}"
    return f"- {data}: `{name}` has {mine:.2f} % ({seeds}), {'; '.join(parts)}."


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Move sorted places apart, upwards, so that labels of a height do not overlap."""
    places: list[float] = []
    for value in values:
        places.append(value if not places else max(value, places[-1] + gap))
    return places


def _draw_panel(axes: Axes, data: str, ours: Sequence[dict[str, Any]]) -> None:
    for row, style in zip(ours, STYLES, strict=False):
        axes.errorbar(
            row["minutes"],
            row["accuracy %"],
            row["std"],
            label=row["method"].partition(", ")[2],
            **style | {"linestyle": ""},
            capsize=2,
        )
    by_accuracy: dict[float, list[str]] = {}
    for published in sorted((p for p in PUBLISHED if p.data == data), key=lambda p: p.accuracy):
        by_accuracy.setdefault(published.accuracy, []).append(published.method.partition(" (")[0])
    everything = [*by_accuracy, *(row["accuracy %"] for row in ours)]
    low, high = min(everything), max(everything)
    margin = 0.12 * (high - low)
    axes.set(title=data, xlabel="training (minutes)", ylabel="test accuracy (%)", xscale="log")
    axes.set_xlim(0.5 * min(row["minutes"] for row in ours), 2 * max(row["minutes"] for row in ours))
    axes.set_ylim(low - margin, high + margin)
    places = _spread(list(by_accuracy), 0.055 * (high - low + 2 * margin))
    for place, (accuracy, names) in zip(places, by_accuracy.items(), strict=True):
        axes.axhline(accuracy, color="#7f7f7f", linestyle=":", linewidth=1)
        axes.annotate(
            f"{', '.join(names)} {accuracy:.2f}",
            (1.02, place),
            xycoords=axes.get_yaxis_transform(),
            fontsize=7,
            verticalalignment="center",
        )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend(fontsize=7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=Path("results/benchmarks"), help="folder in which `accuracy` has written"
    )


def main(arguments: argparse.Namespace) -> None:
    rows = measured(arguments.results)
    if not rows:
        raise SystemExit(f"there is no accuracy in {arguments.results}: run `benchmarks accuracy` first.")
    by_data = {data: [row for row in rows if row["data"] == data] for data, _ in OURS.values()}
    by_data = {data: ours for data, ours in by_data.items() if any("_bp" not in r["method"] for r in ours)}
    sentences = {data: sentence(data, ours) for data, ours in by_data.items()}
    empty = {"std": None, "seeds": None, "minutes": None, "threads": None}
    published = [
        {"data": p.data, "method": p.method, "accuracy %": p.accuracy, **empty, "protocol": p.protocol}
        for p in PUBLISHED
    ]
    order = list(dict.fromkeys(p.data for p in PUBLISHED))
    both = sorted([*rows, *published], key=lambda row: (order.index(row["data"]), -row["accuracy %"]))
    write("standing", arguments.out, both, "\n".join(sentences.values()), sentences=list(sentences.values()))
    drawn = {data: ours for data, ours in by_data.items() if sum(p.data == data for p in PUBLISHED) > 1}
    if drawn:
        figure = Figure(figsize=(7, 3.4 * len(drawn)), layout="constrained")
        for axes, (data, ours) in zip(figure.subplots(len(drawn), squeeze=False).flatten(), drawn.items(), strict=True):
            _draw_panel(axes, data, ours)
        save(figure, arguments.out / "standing.png")
