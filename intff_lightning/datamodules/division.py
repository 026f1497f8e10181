"""Which rows of a table are for training, validation and test."""

import torch
from torch import Tensor

from intff_lightning.datamodules.cells import Cells
from intff_lightning.datamodules.datasets import Part
from intff_lightning.draws import Draws
from intff_lightning.errors import DataError


def drawn(rows: Tensor, count: int, seed: int, stream: int = 0) -> tuple[Tensor, Tensor]:
    """Draw ``count`` of these rows, as a function of (seed, row); return them and the others, in their order."""
    order = Draws(seed, 0, rows, stream=stream).shuffle()
    return rows[order[:count]].sort().values, rows[order[count:]].sort().values


def named(cells: Cells, column: str) -> dict[Part, Tensor]:
    """Return the rows of each part that the cells of a column name.

    Raises:
        DataError: A cell names no part.
    """
    parts: tuple[Part, ...] = ("train", "val", "test")
    strange = [cell for cell in cells if cell not in parts]
    if strange:
        raise DataError(f"column {column!r} has the value {strange[0]!r}, and train, val or test are needed.")
    return {part: torch.arange(len(cells))[torch.from_numpy(cells == part)] for part in parts}
