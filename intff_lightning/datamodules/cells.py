"""Cells of tables: what is a number, a text, or a missing value."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from intff_lightning.errors import DataError

Cells: TypeAlias = np.ndarray[Any, Any]
"""An array of objects; missing values are ``None``."""
Columns: TypeAlias = dict[str, Cells]
"""Columns of one length by name."""


def number(value: Any) -> float | None:
    """Return a cell as a finite number, or ``None`` if it is no number."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str:
    """Return a cell as a text, the same for files and frames: the number 1.0 is ``1``."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def numbers(cells: Cells, name: str, where: str) -> Cells:
    """Return cells as float64, with NaN for missing ones.

    Raises:
        DataError: A cell is no finite number.
    """
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is not None:
            value = number(cell)
            if value is None:
                raise DataError(f"{where}: {cell!r} in column {name!r} (row {row}) is no finite number. Correct it.")
            found[row] = value
    return found


def value_names(cells: Iterable[Any]) -> list[str]:
    """Return the distinct values of a column as texts, numbers by size and texts by the alphabet."""
    found = {text(cell) for cell in cells if cell is not None}
    by_size = all(number(each) is not None for each in found)
    return sorted(found, key=(lambda each: (float(each), each)) if by_size else None)


def is_numeric(cells: Cells) -> bool:
    """Tell whether all cells that are not missing hold finite numbers."""
    return all(cell is None or number(cell) is not None for cell in cells)


def rows_of(table: Columns, index: Sequence[int] | Cells) -> Columns:
    """Return some rows of a table."""
    return {name: cells[index] for name, cells in table.items()}
