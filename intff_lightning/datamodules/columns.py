"""Columns of tables become numbers, by values that are fitted on training rows alone."""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intff_lightning.datamodules.cells import (
    Cells,
    Columns,
    check_numbers,
    height,
    is_numeric,
    number,
    numbers,
    rows_of,
    text,
    value_names,
)
from intff_lightning.errors import DataError


class Preprocessing:
    """Turns the columns of a table into features, by scikit-learn's transformers.

    A numeric column is standardized to mean 0 and variance 1 over its training rows; one that is constant there is not
    scaled, and a warning says so. A missing value becomes the mean,
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

    def fit(
        self,
        table: Columns,
        names: Sequence[str],
        categorical: Collection[str],
        where: str,
        rows: Cells | None = None,
    ) -> "Preprocessing":
        """Fit it on training rows.

        Args:
            table: A table, whose cells are all checked.
            names: Columns to read, in their order.
            categorical: Those to read as categories although they hold numbers.
            where: Name of the table in messages.
            rows: Indices of the training rows; ``None`` takes all.

        Raises:
            DataError: A column has no value in these rows, or a few cells among numbers are no numbers.
        """
        for name in names:
            if name not in categorical:
                check_numbers(table[name], name, where)
                _warn_of_numbered_rows(table[name], name, where)
        table = table if rows is None else rows_of(table, rows)
        empty = [name for name in names if all(cell is None for cell in table[name])]
        if empty:
            raise DataError(f"{where}: column {empty[0]!r} has no value in the training rows. Leave it out by ignore=.")
        self.names = list(names)
        self._numeric = [name for name in names if name not in categorical and is_numeric(table[name])]
        size = height(table)
        for name in self._categorical:
            count = len(value_names(table[name]))
            if count > max(20, size // 2):
                warnings.warn(
                    f"{where}: column {name!r} has {count} categories in {size} training rows, each of which becomes a "
                    "feature. If it is a number, a date or a name, convert it, or leave it out by ignore=.",
                    stacklevel=2,
                )
        self._fit(self._array(table, where), "auto")
        if self._numeric:
            unscaled = self._scaler.scale_ != np.sqrt(self._scaler.var_)
            constant = [name for name, one in zip(self._numeric, unscaled, strict=True) if one]
            if constant:
                warnings.warn(
                    f"{where}: {len(constant)} columns have one value in all training rows "
                    f"({', '.join(constant[:3])}). They tell nothing, and other values will not be scaled. Leave them "
                    "out by ignore=.",
                    stacklevel=2,
                )
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
        feature, count = Counter(self.features).most_common(1)[0]
        if count > 1:
            raise DataError(
                f"features of two columns have the name {feature!r}: a column, its gaps (missingindicator_COLUMN) or "
                "one of its categories (COLUMN_VALUE).\nRename a column, or leave one out by ignore=."
            )

    def transform(self, table: Columns, where: str, rows: Cells | None = None) -> Tensor:
        """Return the features ``(N, D)`` float32 of N rows.

        Args:
            table: A table with the columns that were fitted, and perhaps others.
            where: Name of the table in messages.
            rows: Indices of the rows; ``None`` takes all.

        Raises:
            DataError: A column is missing, or a value of a numeric column is no number.
        """
        gone = [name for name in self.names if name not in table]
        if gone:
            raise DataError(
                f"{where}: there is no column {gone[0]!r}, which the network reads. Its columns are {', '.join(table)}."
            )
        table = table if rows is None else rows_of(table, rows)
        array = self._array(table, where, rows)
        for name, known in self._categories().items():
            strange = [each for each in value_names(table[name]) if each not in known]
            if strange:
                count = sum(cell is not None and text(cell) in strange for cell in table[name])
                warnings.warn(
                    f"{where}: {count} rows have categories in column {name!r} that no training row has "
                    f"({', '.join(strange[:3])}): all features of this column are 0 for them.",
                    stacklevel=2,
                )
        return torch.from_numpy(np.asarray(self._transformer.transform(array), dtype=np.float32))

    def _array(self, table: Columns, where: str, rows: Cells | None = None) -> Cells:
        """Return numeric columns, then categorical ones, as objects ``(N, D)``; missing categories are empty texts."""
        columns = [numbers(table[name], name, where, rows).astype(object) for name in self._numeric]
        for name in self._categorical:
            columns.append(np.array(["" if cell is None else text(cell) for cell in table[name]], dtype=object))
        return np.stack(columns, axis=1)

    @property
    def _scaler(self) -> Any:
        return self._transformer.named_transformers_["numeric"][0]

    @property
    def _imputer(self) -> Any:
        return self._transformer.named_transformers_["numeric"][1]

    def _categories(self) -> dict[str, list[str]]:
        if not self._categorical:
            return {}
        found = self._transformer.named_transformers_["one_hot"].categories_
        return {name: list(map(str, values)) for name, values in zip(self._categorical, found, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return what was fitted, in plain values that a checkpoint may hold."""
        state: dict[str, Any] = {"names": self.names, "numeric": {}, "categories": self._categories()}
        if self._numeric:
            values = zip(
                self._scaler.mean_.tolist(), self._scaler.var_.tolist(), self._scaler.scale_.tolist(), strict=True
            )
            indicated = {self._numeric[number] for number in self._imputer.indicator_.features_}
            state["numeric"] = {
                name: {"mean": mean, "var": var, "scale": scale, "indicated": name in indicated}
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


def _warn_of_numbered_rows(cells: Cells, name: str, where: str) -> None:
    """Warn if a column seems to be the index of a data frame, or another number of the row."""
    found = [number(cell) for cell in cells]
    counts = len(found) >= 10 and found in (list(range(len(found))), list(range(1, len(found) + 1)))
    if counts or name.startswith("Unnamed: "):
        why = "numbers the rows" if counts else "has the name that pandas gives to a column without one"
        warnings.warn(
            f"{where}: column {name!r} {why}, and becomes a feature. Leave it out by ignore=[{name!r}].", stacklevel=2
        )
