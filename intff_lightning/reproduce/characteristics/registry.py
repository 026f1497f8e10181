"""The characteristics that are measured, as a plain list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intff_lightning.reproduce.characteristics import (
    adversarial,
    calibration,
    corruption,
    damage,
    early_exit,
    forgetting,
    labels,
    out_of_distribution,
    sparsity,
)
from intff_lightning.reproduce.characteristics.networks import DATASETS, Trained, Training

Measurements = list[dict[str, Any]]
"""Rows ``what`` (the condition), ``measure``, ``value`` and ``better`` (``higher``, ``lower``, or empty for neither).

A row may have a ``unit``: ``count`` for numbers that are no shares. All others are shown in percent.
"""


def _everything(row: dict[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Characteristic:
    """One characteristic of trained networks.

    Args:
        name: Name of its files, which ``--only`` takes.
        title: Title of its table.
        measure: Measures a network, given the folder of the data and whether this is a quick look.
        trainings: What the networks are trained on.
        fashion: Measure networks of Fashion-MNIST, too.
        summary: Makes further rows from all rows of one network and seed (of all trainings), and from the same rows of
            backpropagation.
        shown: Which rows the figure and the sentences show; all rows are in the table.
        draw: Draws a picture of its own from the rows of its table.
        check: Called before anything is trained; raises a ConfigurationError if a library is missing.
        withhold: Takes the compared rows, and gives the verdict ``in doubt`` to those that other rows speak against.
            Returns why: ``{"of": "NETWORK DATASET", "line": sentence}``.
        others: Its measure reads the other data sets as well.
    """

    name: str
    title: str
    measure: Callable[[Trained, str, bool], Measurements]
    trainings: tuple[Training, ...] = (Training(),)
    fashion: bool = False
    summary: Callable[[Measurements, Measurements], Measurements] | None = None
    shown: Callable[[dict[str, Any]], bool] = _everything
    draw: Callable[[Sequence[dict[str, Any]], Path], None] | None = None
    check: Callable[[], None] | None = None
    withhold: Callable[[list[dict[str, Any]]], list[dict[str, str]]] | None = None
    others: bool = False

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of its networks."""
        return tuple(DATASETS) if self.fashion else ("mnist",)

    def reads(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """Return the data sets that it reads if those of the networks are to be among these."""
        return tuple(DATASETS) if self.others else tuple(name for name in self.datasets if name in chosen)


CHARACTERISTICS = [
    Characteristic(
        "corruption",
        "Corruption at test time",
        corruption.measure,
        fashion=True,
        summary=corruption.summarize,
        shown=corruption.shown,
    ),
    Characteristic(
        "adversarial",
        "Adversarial examples",
        adversarial.measure,
        shown=adversarial.shown,
        check=adversarial.check_library,
        withhold=adversarial.withhold,
    ),
    Characteristic(
        "calibration",
        "Calibration",
        calibration.measure,
        fashion=True,
        shown=calibration.shown,
        draw=calibration.draw_reliability,
    ),
    Characteristic(
        "out_of_distribution",
        "Out-of-distribution detection",
        out_of_distribution.measure,
        shown=lambda row: row["measure"] == "AUROC",
        others=True,
    ),
    Characteristic("few_labels", "Few labelled images", labels.few_labels, labels.FEW, fashion=True),
    Characteristic(
        "label_noise",
        "Wrong labels",
        labels.label_noise,
        labels.NOISE,
        fashion=True,
        summary=labels.lost_by_noise,
        shown=lambda row: row["what"] != labels.CLEAN,
    ),
    Characteristic("damage", "Damage", damage.measure, fashion=True, shown=lambda row: row["what"] != damage.WHOLE),
    Characteristic("sparsity", "Sparsity of activations", sparsity.measure, fashion=True),
    Characteristic(
        "forgetting",
        "Forgetting",
        forgetting.measure,
        forgetting.SEQUENCE,
        fashion=True,
        summary=forgetting.summarize,
        shown=lambda row: row["what"] == forgetting.ALL,
    ),
    Characteristic("early_exit", "Early exit", early_exit.measure, fashion=True),
]
"""All characteristics, in the order of the page."""
