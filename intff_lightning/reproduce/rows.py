"""What the paper reports, and the table that goes beyond it."""

import ast
import dataclasses
from typing import Literal

Algorithm = Literal["intff", "ff", "bp"]

CONVOLUTION = "(784,32C3,64C3,128,48,10)"
"""The paper's one convolutional network; C3 is a kernel of 3x3."""

KINDS = ("gaussian_pixels", "unloaded_rows", "noise_images", "label_noise")
"""Corruptions of the robustness table, each alone."""


HELD_OUT = "author_held_out"
"""The author's procedure without the last 5,000 training images, so that they can be used for validation."""

AUTHOR = ("author", HELD_OUT)
"""The procedures whose runs are measured after every round; see :mod:`intff_lightning.reproduce.rounds`."""

PROCEDURES = ("tuned", "channels", *AUTHOR)
"""How rows are trained, in the order of the tables: our procedure, ours with goodness by class, and the author's."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: an algorithm on a network.

    Args:
        table: Name of the table.
        algorithm: ``intff``, ``ff`` or ``bp``.
        network: The network as the paper writes it: the number of pixels, then one width per layer, with parentheses
            around each hidden unit; a ``bp`` row ends with the width of the softmax. In the ablation, the variant.
        paper_accuracy: Test accuracy in the paper, in percent; ``None`` for rows that are not in the paper.
        corruption: Corruption of the training set: ``clean``, ``mixture`` (the paper's), or one of :data:`KINDS`.
        rate: Share of corrupted samples.
    """

    table: str
    algorithm: Algorithm
    network: str
    paper_accuracy: float | None = None
    corruption: str = "clean"
    rate: float = 0.0

    @property
    def units(self) -> list[list[int]]:
        """Widths of each hidden unit, or for ``bp`` of each layer before the softmax."""
        _, *widths = ast.literal_eval(self.network)
        units = [list(width) if isinstance(width, tuple) else [width] for width in widths]
        return units[:-1] if self.algorithm == "bp" else units

    @property
    def procedures(self) -> tuple[str, ...]:
        """Procedures by which the row can be trained; each but ``author_held_out`` has a shipped config."""
        if self.table == "ablation":
            return ("tuned",)
        return ("tuned", *AUTHOR) if self.algorithm == "bp" else PROCEDURES


_TABLE1 = [
    Row("table1", "intff", "(784,(100,50),(30,10))", 94.04),
    Row("table1", "ff", "(784,100,50,30,10)", 94.64),
    Row("table1", "bp", "(784,100,50,30,10)", 96.07),
    Row("table1", "intff", "(784,(200,200,200),(50,50))", 98.00),
    Row("table1", "ff", "(784,200,200,200,50,50)", 94.48),
    Row("table1", "bp", "(784,200,200,200,50,50,10)", 97.27),
    Row("table1", "bp", CONVOLUTION, 97.71),
]

_TABLE2 = [
    Row("table2", "intff", "(784,(100,100),(100,100))", 94.38, "mixture", 0.75),
    Row("table2", "ff", "(784,100,100,100,100)", 90.78, "mixture", 0.75),
    Row("table2", "bp", "(784,100,100,100,100,10)", 93.83, "mixture", 0.75),
    Row("table2", "intff", "(784,(100,100),(100,100),10)", 94.12, "mixture", 0.75),
]


ABLATION = [
    # dense units: encoding, negatives, loss, one after the other
    *[("dense", encoding, "3 wrong", "softplus") for encoding in ("overlay", "planes", "fourier", "embedding")],
    *[("dense", "overlay", negatives, "softplus") for negatives in ("shuffled", "1 wrong", "9 wrong", "3 hard")],
    *[("dense", "overlay", "3 wrong", loss) for loss in ("symba", "cross-entropy", "both")],
    ("dense", "overlay", "9 wrong", "both"),
    *[("dense", "channels", "none", loss) for loss in ("softplus", "cross-entropy", "both")],
    *[("dense", goodness, "none", "cross-entropy") for goodness in ("mean", "head")],
    *[("conv norm", encoding, "3 wrong", "softplus") for encoding in ("overlay", "planes", "fourier", "embedding")],
    ("conv norm", "planes", "3 wrong", "both"),
    *[("conv norm", "channels", "none", loss) for loss in ("softplus", "cross-entropy", "both")],
    *[("conv norm", goodness, "none", "cross-entropy") for goodness in ("mean", "patches", "head")],
    *[("attention", encoding, "3 wrong", "both") for encoding in ("token", "fourier")],
    ("attention", "channels", "none", "cross-entropy"),
    *[("recurrent", encoding, "3 wrong", "both") for encoding in ("row", "fourier")],
    ("recurrent", "channels", "none", "cross-entropy"),
]
"""Unit, label encoding, negatives and local loss.

Goodness by class has no labels and negatives: ``channels`` (:class:`~intff_lightning.local.ChannelGoodness`), ``mean``
(:class:`~intff_lightning.local.MeanActivation`), ``patches`` (:class:`~intff_lightning.heads.PatchGoodness`) and
``head`` (:class:`~intff_lightning.heads.LinearHead`).
"""


def _robustness() -> list[Row]:
    corruptions = [("clean" if rate == 0 else "mixture", rate) for rate in (0.0, 0.25, 0.5, 0.75, 0.9)]
    corruptions += [(kind, 0.5) for kind in KINDS]
    return [
        Row("robustness", row.algorithm, row.network, None, corruption, rate)
        for corruption, rate in corruptions
        for row in _TABLE2[:3]
    ]


def rows_of(table: str) -> list[Row]:
    """Return the rows of ``table1``, ``table2``, ``figure3``, ``robustness`` or ``ablation``."""
    rows = {
        "table1": _TABLE1,
        "table2": _TABLE2,
        "figure3": [dataclasses.replace(row, table="figure3") for row in _TABLE1 if row.algorithm == "intff"],
        "robustness": _robustness(),
        "ablation": [Row("ablation", "intff", " | ".join(variant)) for variant in ABLATION],
    }
    return rows[table]
