"""A picture of the 15 kinds of MNIST-C at every severity."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure  # not pyplot: no global state, no window

from intff_lightning.corruptions import MNIST_C, SEVERITIES
from intff_lightning.datamodules import InMemoryDataset, MNISTDataModule
from intff_lightning.functional import float_pixels
from intff_lightning.reporting.plots import save

_COUNT = 200
"""Images over which the change is averaged."""


def draw_kinds(data_dir: str, path: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Draw a test image of MNIST under every kind of MNIST-C, one row per severity; a frame marks MNIST-C's own.

    Returns:
        For each kind, the mean absolute change of a pixel at every severity, and the severity of MNIST-C.
    """
    datamodule = MNISTDataModule(data_dir, seed=seed)
    datamodule.prepare_data()
    test = datamodule.dataset("test")
    assert isinstance(test, InMemoryDataset)
    image = float_pixels(test.image[:_COUNT])
    index = torch.arange(len(image))
    figure = Figure(figsize=(0.92 * (1 + len(MNIST_C)), 5.3), layout="constrained")
    grid = figure.subplots(len(SEVERITIES), 1 + len(MNIST_C))
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    for line, severity in zip(grid, SEVERITIES, strict=True):
        line[0].imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(f"severity {severity}", fontsize=9)
    grid[0, 0].set_title("no\ncorruption", fontsize=9)
    rows = []
    for column, (name, kind) in enumerate(MNIST_C.items(), 1):
        grid[0, column].set_title(name.replace("_", "\n"), fontsize=9)
        row: dict[str, Any] = {"kind": name}
        for line, severity in zip(grid, SEVERITIES, strict=True):
            worse = kind(severity).of_test_images(image, index, seed=seed)
            line[column].imshow(worse[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            if severity == kind.mnist_c_severity:
                for side in line[column].spines.values():
                    side.set(color="#d55e00", linewidth=2.5)
            row[f"severity {severity}"] = float((worse - image).abs().mean())
        rows.append({**row, "MNIST-C": kind.mnist_c_severity})
    save(figure, path)
    return rows
