"""Tables: reading them, and turning their columns into numbers, by values that are fitted on training rows alone."""

import csv
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError, DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Texts that stand for a missing value, unless others are given."""
PREFIX = "sklearn:"
"""Begins the name of a data set that comes with scikit-learn."""
BUNDLED = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
"""Data sets that come with scikit-learn. Their target is the column ``target``; Linnerud has three targets."""

Cells: TypeAlias = np.ndarray[Any, Any]
"""An array of objects; missing values are ``None``."""
Columns: TypeAlias = dict[str, Cells]
"""Columns of one length by name."""


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


class Preprocessing:
    """Turns the columns of a table into features, by scikit-learn's transformers.

    A numeric column is standardized to mean 0 and variance 1 over its training rows. A missing value becomes the mean,
    and if the training rows have some, a further feature says where. A categorical column becomes one feature per
    category of the training rows; a missing value is a category of its own if the training rows have some.

    Args:
        state: What :meth:`state` has returned, to rebuild it.

    Attributes:
        names: Names of the columns that it reads.
        features: Names of the features.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.names: list[str] = []
        self.features: list[str] = []
        self._numeric: list[str] = []
        self._transformer: Any = None
        if state is not None:
            self._restore(state)

    def fit(self, table: Columns, names: Sequence[str], categorical: Collection[str], where: str) -> "Preprocessing":
        """Fit it on training rows.

        Args:
            table: Training rows.
            names: Columns to read, in their order.
            categorical: Those to read as categories although they hold numbers.
            where: Name of the table in messages.

        Raises:
            DataError: A column has no value in these rows.
        """
        empty = [name for name in names if all(cell is None for cell in table[name])]
        if empty:
            raise DataError(f"{where}: column {empty[0]!r} has no value in the training rows. Leave it out by ignore=.")
        self.names = list(names)
        self._numeric = [name for name in names if name not in categorical and _is_numeric(table[name])]
        rows = len(table[self.names[0]])
        for name in self._categorical:
            count = len(value_names(table[name]))
            if count > max(20, rows // 2):
                warnings.warn(
                    f"{where}: column {name!r} has {count} categories in {rows} training rows, each of which becomes a "
                    "feature. If it is a number, a date or a name, convert it, or leave it out by ignore=.",
                    stacklevel=2,
                )
        self._fit(self._array(table, where), "auto")
        return self

    @property
    def _categorical(self) -> list[str]:
        return [name for name in self.names if name not in self._numeric]

    def _fit(self, array: Cells, categories: Any) -> None:
        from sklearn.compose import ColumnTransformer  # takes a second, which other data do not need
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        count = len(self._numeric)
        # missing values pass the scaler, so that 0, the mean of what it returns, can take their place
        numeric = make_pipeline(
            StandardScaler(), SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True)
        )
        one_hot = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
        parts = [("numeric", numeric, list(range(count))), ("one_hot", one_hot, list(range(count, len(self.names))))]
        self._transformer = ColumnTransformer([part for part in parts if part[2]]).fit(array)
        names = {"numeric": self._numeric, "one_hot": self._categorical}
        fitted = self._transformer.named_transformers_
        self.features = [str(f) for part in fitted for f in fitted[part].get_feature_names_out(names[part])]

    def transform(self, table: Columns, where: str) -> Tensor:
        """Return the features ``(N, D)`` float32 of a table with N rows.

        Raises:
            DataError: A column is missing, or a value of a numeric column is no number.
        """
        gone = [name for name in self.names if name not in table]
        if gone:
            raise DataError(
                f"{where}: there is no column {gone[0]!r}, which the network reads. Its columns are {', '.join(table)}."
            )
        array = self._array(table, where)
        for name, known in self._categories().items():
            strange = [each for each in value_names(table[name]) if each not in known]
            if strange:
                rows = sum(cell is not None and text(cell) in strange for cell in table[name])
                warnings.warn(
                    f"{where}: {rows} rows have categories in column {name!r} that no training row has "
                    f"({', '.join(strange[:3])}): all features of this column are 0 for them.",
                    stacklevel=2,
                )
        return torch.from_numpy(np.asarray(self._transformer.transform(array), dtype=np.float32))

    def _array(self, table: Columns, where: str) -> Cells:
        """Return numeric columns, then categorical ones, as objects ``(N, D)``; missing categories are empty texts."""
        columns = [numbers(table[name], name, where).astype(object) for name in self._numeric]
        for name in self._categorical:
            columns.append(np.array(["" if cell is None else text(cell) for cell in table[name]], dtype=object))
        return np.stack(columns, axis=1)

    @property
    def _scaler(self) -> Any:
        return self._transformer.named_transformers_["numeric"][0]

    def _categories(self) -> dict[str, list[str]]:
        if not self._categorical:
            return {}
        found = self._transformer.named_transformers_["one_hot"].categories_
        return {name: list(map(str, values)) for name, values in zip(self._categorical, found, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return what was fitted, in plain values that a checkpoint may hold."""
        prefix = "missingindicator_"
        state: dict[str, Any] = {"names": self.names, "numeric": {}, "categories": self._categories()}
        if self._numeric:
            values = zip(
                self._scaler.mean_.tolist(), self._scaler.var_.tolist(), self._scaler.scale_.tolist(), strict=True
            )
            state["numeric"] = {
                name: {"mean": mean, "var": var, "scale": scale, "indicated": prefix + name in self.features}
                for name, (mean, var, scale) in zip(self._numeric, values, strict=True)
            }
        return state

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Fit the transformers on two rows that give them their shapes, and tell the scaler its values."""
        self.names, numeric = list(state["names"]), state["numeric"]
        self._numeric = [name for name in self.names if name in numeric]
        categories = [list(state["categories"][name]) for name in self._categorical]
        rows = [
            [math.nan if row and numeric[name]["indicated"] else 0.0 for name in self._numeric]
            + [values[0] for values in categories]
            for row in range(2)
        ]
        self._fit(np.array(rows, dtype=object), [np.array(values, dtype=object) for values in categories])
        if self._numeric:
            for key in ("mean", "var", "scale"):
                setattr(self._scaler, f"{key}_", np.array([numeric[name][key] for name in self._numeric]))


def _is_numeric(cells: Cells) -> bool:
    """Tell whether all cells that are not missing hold finite numbers."""
    return all(cell is None or number(cell) is not None for cell in cells)


def rows_of(table: Columns, index: Sequence[int] | Cells) -> Columns:
    """Return some rows of a table."""
    return {name: cells[index] for name, cells in table.items()}
