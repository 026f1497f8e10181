"""Cells of tables: what is a number, a text, or a missing value."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np

from intff_lightning.errors import DataError

Cells: TypeAlias = np.ndarray[Any, Any]
"""An array of objects; missing values are ``None``."""
Columns: TypeAlias = dict[str, Cells]
"""Columns of one length by name."""


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0+")
_MOSTLY, _DISTINCT = 0.8, 10  # share of numbers, and how many different ones, that make a column numeric


def number(value: Any) -> float | None:
    """Return a cell as a finite number, or ``None`` if it is no number."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None  # float would take 1_000, and digits of any script
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str:
    """Return a cell as a text: ``1`` for 1, 1.0, and the texts ``1.0`` and ``1.00``.

    Any other text is kept, so ``01``, ``1.50`` and ``1.5`` are three texts.
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    shown = str(value)
    return str(int(shown.partition(".")[0])) if _WHOLE.fullmatch(shown) else shown


def numbers(cells: Cells, name: str, where: str, rows: Cells | None = None) -> Cells:
    """Return cells as float64, with NaN for missing ones.

    Args:
        cells: Cells of a column.
        name: Name of the column in messages.
        where: Name of the table in messages.
        rows: Rows of the cells in the table; ``None`` counts from 0.

    Raises:
        DataError: A cell is no finite number.
    """
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is not None:
            value = number(cell)
            if value is None:
                raise DataError(_no_number(cell, name, where, row if rows is None else int(rows[row])) + ".")
            found[row] = value
    return found


def _no_number(cell: Any, name: str, where: str, row: int) -> str:
    return (
        f"{where}: {cell!r} in column {name!r} (row {row}) is no finite number.\nCorrect it, or give "
        f"missing=[{text(cell)!r}] if it stands for a missing value"
    )


def check_numbers(cells: Cells, name: str, where: str) -> None:
    """Refuse a column with a few cells that are no numbers, or are infinite: they would make all others categories.

    Raises:
        DataError: At least 80 % of the cells that are not missing are numbers, ten different ones or more, and some
            are not; or all are numbers, and some of them infinite.
    """
    present = [(row, cell, number(cell)) for row, cell in enumerate(cells) if cell is not None]
    found = [value for _, _, value in present if value is not None]
    odd = [(row, cell) for row, cell, value in present if value is None]
    mostly = len(found) >= _MOSTLY * len(present) and len({*found}) >= _DISTINCT
    if odd and (mostly or (found and all(_is_infinite(cell) for _, cell in odd))):
        row, cell = odd[0]
        message = _no_number(cell, name, where, row)
        raise DataError(f"{message}, or categorical=[{name!r}] if the column holds categories.")


def _is_infinite(cell: Any) -> bool:
    try:
        return math.isinf(float(cell))
    except (TypeError, ValueError):
        return False


def value_names(cells: Iterable[Any]) -> list[str]:
    """Return the distinct values of a column as texts, numbers by size and texts by the alphabet."""
    found = {text(cell) for cell in cells if cell is not None}
    by_size = all(number(each) is not None for each in found)
    return sorted(found, key=(lambda each: (float(each), each)) if by_size else None)


def is_numeric(cells: Cells) -> bool:
    """Tell whether all cells that are not missing hold finite numbers."""
    return all(cell is None or number(cell) is not None for cell in cells)


def height(table: Mapping[str, Sized]) -> int:
    """Return the number of rows of a table."""
    return len(next(iter(table.values())))


def rows_of(table: Columns, index: Sequence[int] | Cells) -> Columns:
    """Return some rows of a table."""
    return {name: cells[index] for name, cells in table.items()}
