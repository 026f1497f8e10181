"""Reading tables: CSV files, data frames, mappings, and the tables that come with scikit-learn."""

import csv
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from intff_lightning.datamodules.cells import Cells, Columns
from intff_lightning.errors import ConfigurationError, DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Texts that stand for a missing value, unless others are given."""
PREFIX = "sklearn:"
"""Begins the name of a data set that comes with scikit-learn."""
BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
"""Data sets that come with scikit-learn. Their target is the column ``target``; Linnerud has three targets."""


def read_table(table: Any, where: str, separator: str = ",", missing: Collection[str] = MISSING) -> Columns:
    """Read a table into memory.

    Args:
        table: Path of a CSV file in UTF-8 whose first line names the columns, ``sklearn:NAME`` for one of
            ``BUNDLED``, a pandas or polars frame, or a mapping of names to columns.
        where: Name of the table in messages.
        separator: Character between the cells of a file.
        missing: Texts that stand for a missing value; NaN, ``None`` and empty cells always do.

    Raises:
        DataError: The file cannot be read, names a column twice, or has a line of another length.
        ConfigurationError: The table is of another kind.
    """
    if isinstance(table, str) and table.startswith(PREFIX):
        columns = _bundled(table.removeprefix(PREFIX))
    elif isinstance(table, str | Path):
        columns = _read_file(Path(table), separator)
    elif isinstance(table, Mapping):
        columns = {str(name): _of_mapping(values, f"{where}: column {str(name)!r}") for name, values in table.items()}
    elif hasattr(table, "columns"):
        columns = {str(name): _of_frame(table[name]) for name in table.columns}
    else:
        raise ConfigurationError(
            f"{where} is of type {type(table).__name__}: a CSV file, a data frame, or a mapping of columns is needed."
        )
    if len({len(values) for values in columns.values()}) != 1:
        raise DataError(f"{where}: its columns have different lengths, or there are none.")
    absent = {"", *missing}
    return {name: _cells(values, absent) for name, values in columns.items()}


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


def _of_mapping(values: Any, where: str) -> list[Any]:
    """Return the values of a column of a mapping; a tensor or an array has one dimension."""
    found = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    strange = next((value for value in found if isinstance(value, list | tuple | dict | Tensor | np.ndarray)), None)
    if strange is not None:
        raise DataError(f"{where} has a cell of type {type(strange).__name__}: numbers or texts are needed.")
    return found


def _of_frame(column: Any) -> list[Any]:
    """Return the values of a column of a frame; pandas has several values for a missing one."""
    values = column.to_numpy(dtype=object).tolist() if hasattr(column, "isna") else column.to_list()
    absent = column.isna().to_numpy() if hasattr(column, "isna") else [False] * len(values)
    return [None if gone else value for value, gone in zip(values, absent, strict=True)]


def _cells(values: Iterable[Any], absent: Collection[str]) -> Cells:
    """Return values with ``None`` for those that are missing; texts lose the spaces around them."""
    found: list[Any] = []
    for value in values:
        value = value.strip() if isinstance(value, str) else value
        gone = value is None or (isinstance(value, float | np.floating) and math.isnan(value)) or value in absent
        found.append(None if gone else value)
    cells = np.empty(len(found), dtype=object)
    cells[:] = found
    return cells


def _read_file(path: Path, separator: str) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(lines, [])]
            twice = [name for number, name in enumerate(names) if name in names[:number]]
            if twice or not names:
                what = f"names the column {twice[0]!r} twice" if twice else "is empty"
                raise DataError(f"{path} {what}: its first line must name the columns.")
            rows: list[list[str]] = []
            for row in lines:
                if len(row) != len(names) and row:
                    raise DataError(
                        f"{path}, line {lines.line_num}: there are {len(row)} cells, and {len(names)} columns. The "
                        f"separator is {separator!r}."
                    )
                rows += [row] if row else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path.absolute()} is no table that can be read ({reason}).") from None
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}
