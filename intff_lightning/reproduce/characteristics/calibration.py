r"""Calibration: do the probabilities of a network say how often it is right?

The scores of IntFF and FF are sums of goodness per label, and those of backpropagation are logits. Both become
probabilities by a softmax with a temperature T,

.. math:: p_c = \frac{\exp(s_c / T)}{\sum_{c'} \exp(s_{c'} / T)}.

Before calibration T is that of the network's own loss, which trains this softmax; 1 for backpropagation. After it, T is
the one temperature that minimizes the negative log-likelihood of validation data (Guo et al. 2017). It changes no
prediction.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure  # not pyplot: no global state, no window
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import multiclass_calibration_error

from intff_lightning.reporting.plots import STYLES, save
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import scores, trained_temperature
from intff_lightning.reproduce.characteristics.report import ALGORITHM_NAMES, PLACE_NAMES
from intff_lightning.temperature import fit_temperature

BINS = 15
"""Bins of confidence, of equal width."""
BEFORE, AFTER = "before", "after calibration"
CONFIDENCE, RIGHT = "mean confidence", "share of right predictions"


class Bin(NamedTuple):
    """Predictions of similar confidence: one point of a reliability diagram."""

    number: int
    """From 0."""
    share: float
    """Share of all predictions."""
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Share of them that are right."""


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return ECE and Brier score on test data before and after calibration, and the points of the diagrams."""
    found = scores(trained.module, trained.test)
    temperature = fit_temperature(scores(trained.module, trained.validation), trained.validation.target)
    rows: list[dict[str, Any]] = []
    for what, divisor in ((BEFORE, trained_temperature(trained.module)), (AFTER, temperature)):
        p = probabilities(found, divisor)
        values = {"ECE": calibration_error(p, trained.test.target), "Brier score": brier_score(p, trained.test.target)}
        rows += [{"what": what, "measure": name, "value": value, "better": "lower"} for name, value in values.items()]
        for each in reliability(p, trained.test.target):
            place = f"{what}, bin {each.number + 1} of {BINS}"
            for name, value in ((CONFIDENCE, each.confidence), (RIGHT, each.accuracy)):
                rows.append({"what": place, "measure": name, "value": value, "better": ""})
    return rows


def shown(row: dict[str, Any]) -> bool:
    """Tell whether a row compares networks: the points of a diagram do not."""
    return row["what"] in (BEFORE, AFTER)


def probabilities(score: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of scores ``(N, C)`` divided by a temperature, float64 ``(N, C)``."""
    return (score.double() / temperature).softmax(1)


def calibration_error(probability: Tensor, target: Tensor) -> float:
    r"""Return the expected calibration error (Naeini et al. 2015), by torchmetrics.

    .. math:: \text{ECE} = \sum_\text{bins} \frac{n_b}{N} \, |\text{accuracy}_b - \text{confidence}_b|

    Args:
        probability: ``(N, C)``.
        target: ``(N,)``.
    """
    classes = probability.shape[1]
    return float(multiclass_calibration_error(probability, target, num_classes=classes, n_bins=BINS, norm="l1"))


def brier_score(probability: Tensor, target: Tensor) -> float:
    r"""Return the Brier score (Brier 1950) of probabilities ``(N, C)`` under targets ``(N,)``, from 0 to 2.

    .. math:: \operatorname{mean}_n \sum_c (p_{n,c} - y_{n,c})^2
    """
    return float((probability - one_hot(target, probability.shape[1])).square().sum(1).mean())


def reliability(probability: Tensor, target: Tensor, bins: int = BINS) -> list[Bin]:
    """Return the bins of a reliability diagram that hold predictions, by growing confidence.

    Args:
        probability: ``(N, C)``.
        target: ``(N,)``.
        bins: Number of bins of equal width from 0 to 1. A confidence at an edge belongs to the bin below.
    """
    confidence, predicted = probability.max(1)
    right = (predicted == target).double()
    number = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = number.bincount(minlength=bins)
    sums = [torch.zeros(bins, dtype=torch.float64).index_add_(0, number, each.double()) for each in (confidence, right)]
    return [
        Bin(b, int(count[b]) / len(target), float(sums[0][b] / count[b]), float(sums[1][b] / count[b]))
        for b in range(bins)
        if count[b]
    ]


def draw_reliability(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw reliability diagrams before and after calibration, one line per algorithm; on the diagonal it is perfect.

    Args:
        rows: Rows of this characteristic, each with its ``network``, ``dataset``, ``algorithm`` and either a ``value``
            or a ``mean``.
        path: The file.
    """
    places = list(dict.fromkeys((row["network"], row["dataset"]) for row in rows))
    figure = Figure(figsize=(6.4, 0.6 + 2.9 * len(places)), layout="constrained")
    panels = figure.subplots(len(places), 2, squeeze=False, sharex=True, sharey=True)
    for line, place in zip(panels, places, strict=True):
        for axes, what in zip(line, (BEFORE, AFTER), strict=True):
            axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
            mine = [row for row in rows if (row["network"], row["dataset"]) == place]
            for style, algorithm in zip(STYLES, dict.fromkeys(row["algorithm"] for row in rows), strict=False):
                points = _points([row for row in mine if row["algorithm"] == algorithm], what)
                axes.plot(*zip(*points, strict=True), label=ALGORITHM_NAMES[algorithm], markersize=4, **style)
            axes.set_title(f"{', '.join(PLACE_NAMES[part] for part in place)}: {what}", fontsize=8)
            axes.grid(True, alpha=0.3)
        line[0].set_ylabel(RIGHT, fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel(CONFIDENCE, fontsize=8)
    panels[0, 0].legend(fontsize=7)
    save(figure, path)


def _points(rows: Sequence[dict[str, Any]], what: str) -> list[tuple[float, float]]:
    """Return confidence and accuracy of each bin, means over the rows that have it."""
    bins: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["what"].startswith(f"{what}, bin"):
            value = row["mean"] if "mean" in row else row["value"]
            bins.setdefault(row["what"], {}).setdefault(row["measure"], []).append(value)
    return sorted((fmean(each[CONFIDENCE]), fmean(each[RIGHT])) for each in bins.values())
