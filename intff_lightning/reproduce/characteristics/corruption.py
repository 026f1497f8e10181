"""Corruption at test time: accuracy under the 15 kinds of MNIST-C, and the mean corruption error.

All networks are tested on the same images, which are rounded to 8 bits like published ones. The published test images
of MNIST-C are measured, too, where ``data_dir`` has them.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from intff_lightning.corruptions import MNIST_C, SEVERITIES
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.datamodules.mnist_c import read_mnist_c
from intff_lightning.functional import float_pixels
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import accuracy

CLEAN = "no corruption"
ALL = "mean of 15 kinds"
PUBLISHED = "MNIST-C"
"""What stands in place of a severity for published images."""

_IMAGES = 2000
_QUICK_IMAGES, _QUICK_SEVERITIES = 100, (1, 5)
_SEED = 0
_CHUNK = 500


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the accuracy on the first 2,000 test images, clean and under each kind and severity.

    The published images of MNIST-C, of which all 10,000 are taken, are of MNIST alone.
    """
    count, severities = (_QUICK_IMAGES, _QUICK_SEVERITIES) if quick else (_IMAGES, SEVERITIES)
    image, target = trained.test.image, trained.test.target[:count]
    sets = {CLEAN: InMemoryDataset(image[:count], target)}
    found = {CLEAN: accuracy(trained.module, sets[CLEAN])}
    for kind in MNIST_C:
        for severity in severities:
            worse = InMemoryDataset(corrupted(image, count, kind, severity), target)
            found[f"{kind}, severity {severity}"] = accuracy(trained.module, worse)
        published = read_mnist_c(Path(data_dir), kind) if trained.dataset == "mnist" and not quick else None
        if published is not None:
            data = InMemoryDataset(published[0].unsqueeze(1), published[1])
            found[f"{kind}, {PUBLISHED}"] = accuracy(trained.module, data)
    return [{"what": what, "measure": "accuracy", "value": value, "better": "higher"} for what, value in found.items()]


@functools.lru_cache(
    maxsize=2 * len(MNIST_C) * len(SEVERITIES)
)  # all networks of the two data sets are tested on these
def corrupted(image: Tensor, count: int, kind: str, severity: int) -> Tensor:
    """Return the first images of a test set under a corruption, uint8."""
    corruption = MNIST_C[kind](severity)
    parts = [
        corruption.of_test_images(float_pixels(part), torch.arange(start, start + len(part)), seed=_SEED)
        for start, part in zip(range(0, count, _CHUNK), torch.split(image[:count], _CHUNK), strict=True)
    ]
    return (255 * torch.cat(parts)).round().to(torch.uint8)


def summarize(rows: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""Return the mean accuracy, the corruption error of each kind, and its mean mCE (Hendrycks and Dietterich 2019).

    .. math:: \text{CE}_c = \frac{\sum_s E_{s,c}}{\sum_s E^\text{BP}_{s,c}}, \qquad \text{mCE} = \operatorname{mean}_c
        \text{CE}_c

    E is the error under kind c at severity s. Backpropagation of the same network and seed takes the place of AlexNet,
    so its own mCE is 1. The published images have one severity, and an mCE of their own.

    Args:
        rows: What :func:`measure` returned for a network.
        baseline: The same for backpropagation.
    """
    made = []
    for what, published in ((ALL, False), (f"{ALL}, {PUBLISHED}", True)):
        errors, theirs = (_errors(part, published) for part in (rows, baseline))
        if not errors or errors.keys() != theirs.keys():
            continue
        ratios = {kind: _ratio(sum(errors[kind]), sum(theirs[kind])) for kind in errors}
        mean = 1 - fmean(error for each in errors.values() for error in each)
        made.append({"what": what, "measure": "accuracy", "value": mean, "better": "higher"})
        made.append({"what": what, "measure": "mCE", "value": fmean(ratios.values()), "better": "lower"})
        end = f", {PUBLISHED}" if published else ""
        made += [
            {"what": f"{kind}{end}", "measure": "CE", "value": ratio, "better": "lower"}
            for kind, ratio in ratios.items()
        ]
    return made


def shown(row: dict[str, Any]) -> bool:
    """Tell whether a row is one of the means over severities; the others are in the table alone."""
    return row["measure"] != "accuracy" or str(row["what"]).startswith(ALL)


def _errors(rows: Sequence[dict[str, Any]], published: bool) -> dict[str, list[float]]:
    """Return the errors of each kind, of the published images or by severity."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        kind, _, condition = row["what"].partition(", ")
        if row["measure"] == "accuracy" and kind in MNIST_C and (condition == PUBLISHED) == published:
            errors.setdefault(kind, []).append(1 - row["value"])
    return errors


def _ratio(error: float, baseline: float) -> float:
    """Return the ratio of two errors; a baseline without any counts as one that is equal, or as infinitely better."""
    if baseline > 0:
        return error / baseline
    return 1.0 if error == 0 else float("inf")
