"""Reading tables: CSV files, data frames, mappings, and the tables that come with scikit-learn."""

import csv
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from intff_lightning.datamodules.cells import Cells, Columns, height, number, text
from intff_lightning.errors import ConfigurationError, DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Texts that stand for a missing value, unless others are given."""
_ALWAYS = ("", "NaN", "nan")
PREFIX = "sklearn:"
"""Begins the name of a data set that comes with scikit-learn."""
BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
"""Data sets that come with scikit-learn. Their target is the column ``target``; Linnerud has three targets."""


def read_table(
    table: Any, where: str, separator: str = ",", missing: Collection[str] = MISSING, expected: bool = False
) -> Columns:
    """Read a table into memory.

    Args:
        table: Path of a CSV file in UTF-8 whose first line names the columns, ``sklearn:NAME`` for one of
            ``BUNDLED``, a pandas or polars frame, or a mapping of names to columns.
        where: Name of the table in messages.
        separator: Character between the cells of a file.
        missing: Texts that stand for a missing value, or numbers as texts: ``-999`` is also ``-999.0``. Empty cells,
            ``None``, ``NaN`` and ``nan`` always do, and so do the values of pandas (``NA``, ``NaT``).
        expected: Warn of texts in ``missing`` that occur nowhere in the table.

    Raises:
        DataError: The file cannot be read or has a line of another length, a column has no name or that of another
            one, or a cell is a container.
        ConfigurationError: The table is of another kind.
    """
    if isinstance(table, str) and table.startswith(PREFIX):
        columns = _bundled(table.removeprefix(PREFIX))
    elif isinstance(table, str | Path):
        columns = _read_file(Path(table), separator)
    elif isinstance(table, Mapping):
        names = _checked_names(table, where)
        columns = {name: _of_mapping(values) for name, values in zip(names, table.values(), strict=True)}
    elif hasattr(table, "columns"):
        names = _checked_names(table.columns, where)
        columns = {name: table[key].to_list() for name, key in zip(names, table.columns, strict=True)}
    else:
        raise ConfigurationError(
            f"{where} is of type {type(table).__name__}: a CSV file, a data frame, or a mapping of columns is needed."
        )
    if len({len(values) for values in columns.values()}) != 1:
        raise DataError(f"{where}: its columns have different lengths, or there are none.")
    if not height(columns):
        raise DataError(f"{where} has names of columns, and no rows.")
    marks, seen = {_mark(each) for each in (*_ALWAYS, *missing)}, set[Any]()
    found = {name: _cells(values, marks, seen, f"{where}: column {name!r}") for name, values in columns.items()}
    unused = [each for each in missing if _mark(each) not in seen]
    if expected and unused:
        warnings.warn(f"missing: {', '.join(map(repr, unused))} occurs nowhere in {where}.", stacklevel=2)
    return found


def _checked_names(given: Iterable[Any], where: str) -> list[str]:
    """Return the names of columns as texts.

    Raises:
        DataError: A column has no name, or two have the same one.
    """
    names = [str(name) for name in given]
    blank = [number for number, name in enumerate(names, 1) if not name.strip()]
    if blank:
        raise DataError(
            f"{where}: column {blank[0]} has no name. Name it, or remove it. If pandas wrote it, it is the "
            "index: write the file by to_csv(..., index=False)."
        )
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise DataError(f"{where} names the column {twice[0]!r} twice. Every column needs a name of its own.")
    return names


def _bundled(name: str) -> dict[str, list[Any]]:
    """Return a data set that comes with scikit-learn; the column ``target`` holds the names of classes."""
    if name not in BUNDLED:
        raise ConfigurationError(f"table={PREFIX}{name}: choose from {', '.join(BUNDLED)}.")
    from sklearn import datasets  # takes a second, which other data do not need

    found = getattr(datasets, f"load_{name}")()
    columns = dict(zip(found.feature_names, found.data.T.tolist(), strict=True))
    if found.target.ndim == 2:  # Linnerud has three
        return columns | dict(zip(found.target_names, found.target.T.tolist(), strict=True))
    names = found.get("target_names")
    target = found.target.tolist() if names is None else [str(names[number]) for number in found.target]
    return {**columns, "target": target}


def _of_mapping(values: Any) -> list[Any]:
    """Return the values of a column of a mapping; a tensor or an array has one dimension."""
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)


def _cells(values: Iterable[Any], marks: Collection[Any], seen: set[Any], where: str) -> Cells:
    """Return values with ``None`` for those that are missing; texts lose the spaces around them.

    Args:
        values: Values of a column.
        marks: Marks of the texts and numbers that stand for a missing value.
        seen: Takes those that occur.
        where: Name of the column in messages.

    Raises:
        DataError: A value is a container.
    """
    found: list[Any] = []
    for row, value in enumerate(values):
        if isinstance(value, list | tuple | set | Mapping | Tensor | np.ndarray):
            raise DataError(
                f"{where} has a cell of type {type(value).__name__} (row {row}): numbers or texts are needed."
            )
        value = value.strip() if isinstance(value, str) else value
        mark = None if _is_nothing(value) else _mark(value)
        if mark in marks:
            seen.add(mark)
        found.append(None if mark is None or mark in marks else value)
    cells = np.empty(len(found), dtype=object)
    cells[:] = found
    return cells


def _is_nothing(value: Any) -> bool:
    """Tell whether a value is ``None``, or one that does not equal itself: NaN of any kind, and what pandas has."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ArithmeticError):  # pandas.NA, and a Decimal that signals
        return True


def _mark(value: Any) -> float | str:
    """Return what equal cells share: numbers by size, but codes such as ``01`` and all other cells as texts."""
    shown = text(value)
    found = None if re.match(r"-?0[0-9]", shown) else number(value)
    return shown if found is None else found


def _read_file(path: Path, separator: str) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = _checked_names([name.strip() for name in next(lines, [])], str(path))
            if not names:
                raise DataError(f"{path} is empty: its first line must name the columns.")
            rows: list[list[str]] = []
            for row in lines:
                if len(row) != len(names) and row:
                    raise DataError(
                        f"{path}, line {lines.line_num}: there are {len(row)} cells, and {len(names)} columns. The "
                        f"separator is {separator!r}."
                    )
                rows += [row or [""]] if row or len(names) == 1 else []  # an empty cell, or a blank line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path.absolute()} is no table that can be read ({reason}).") from None
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}
