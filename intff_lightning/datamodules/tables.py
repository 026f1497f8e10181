"""TableDataModule: the rows of a CSV file or a data frame."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from intff_lightning.corruptions import ImageCorruption
from intff_lightning.datamodules import table_options
from intff_lightning.datamodules.cells import Cells, Columns, height, numbers, text, value_names
from intff_lightning.datamodules.columns import Preprocessing
from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.division import drawn, named
from intff_lightning.datamodules.loading import InMemoryDataset, range_of
from intff_lightning.datamodules.options import count_of
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.reading import MISSING, read_table
from intff_lightning.datamodules.table_options import SIZE
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError
from intff_lightning.recipe import from_recipe

_TEST = 2  # stream of the draws of test rows; validation rows have the stream 0
_TABLES: dict[Part, str] = {"train": "table", "val": "val_table", "test": "test_table", "predict": "predict_table"}


class TableDataModule(PairedDataModule):
    """Rows of a table with numeric and categorical columns; samples have the shape (D,).

    A column whose training rows hold only numbers is numeric: it is standardized, and a missing value becomes the mean,
    beside a feature that says so. Any other column is categorical, with one feature per category (see
    :class:`~intff_lightning.datamodules.columns.Preprocessing`); if only a few of its cells are no numbers, it is
    refused. All of this is fitted on training rows alone, and
    checkpoints keep it, so a trained network reads new tables as it read its own.

    Validation and test rows come from tables of their own, or from the rows that a column names (``split``); else they
    are drawn, as a function of (``val_seed``, row). Rows of data frames count in their order, without their index.

    Args:
        table: Training data: path of a CSV file whose first line names the columns, ``sklearn:NAME`` for a data set
            that comes with scikit-learn (``sklearn:wine``, target ``target``), a pandas or polars frame, or a mapping
            of names to columns. ``None`` if there is nothing to train.
        target: Name of the column to predict. Rows to predict may lack it.
        val_table: Validation data, like ``table``.
        test_table: Test data, like ``table``.
        predict_table: Rows to predict, like ``table``; ``None`` takes the test data.
        split: Name of a column of ``table`` whose values are ``train``, ``val`` and ``test``.
        test_size: Number of rows, or below 1 the share, that become test data; 0 for none.
        categorical: Columns that hold numbers and are to be read as categories.
        ignore: Columns to leave out, such as a name or a number of the row.
        missing: Texts that stand for a missing value, beside empty cells and NaN; ``-999`` also stands for the number.
            ``None`` takes ``NA``, ``N/A``, ``null``, ``NULL`` and ``?``.
        separator: Character between the cells of a CSV file.
        preprocessing: What was fitted on the training rows, from a checkpoint; ``None`` fits it.
        **options: Arguments of :class:`PairedDataModule`; ``regression: true`` predicts a number. ``val_size`` is 0.2
            by default.

    Raises:
        ConfigurationError: Arguments that cannot work, or that have no effect.
    """

    draws_test_samples = True

    def __init__(
        self,
        table: Any = None,
        target: str | None = None,
        val_table: Any = None,
        test_table: Any = None,
        predict_table: Any = None,
        split: str | None = None,
        test_size: float = SIZE,
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        missing: list[str] | None = None,
        separator: str = ",",
        preprocessing: dict[str, Any] | None = None,
        val_size: float = SIZE,
        **options: Any,
    ) -> None:
        given: dict[Part, Any] = dict(zip(_TABLES, (table, val_table, test_table, predict_table), strict=True))
        table = val_table = test_table = predict_table = None  # Lightning looks here, and cannot compare data frames
        super().__init__(val_size=val_size, **options)
        self.refuse(("num_classes",), "the values of the target are counted")
        self.refuse(("pixel_range", "vocabulary", "keys"), "a table holds numbers and categories in columns")
        if isinstance(self.test_corruption, ImageCorruption):
            raise ConfigurationError(
                f"test_corruption: {type(self.test_corruption).__name__} is for images, not tables."
            )
        table_options.check_values(test_size, separator, categorical=categorical, ignore=ignore, missing=missing)
        table_options.check_columns(target, split, categorical or (), ignore or ())
        table_options.check_tables(given, split, self.init_arguments(), self.refuse)
        self._given_tables = given
        self.target, self.split, self.test_size, self.separator = target, split, test_size, separator
        self.categorical, self.ignore = list(categorical or ()), list(ignore or ())
        self.missing, self._says_missing = MISSING if missing is None else tuple(missing), missing is not None
        self._tables: dict[Part, Columns | None] = {}
        self._index: dict[Part, Tensor] | None = None
        self._preprocessing: Preprocessing | None = None
        self._names: list[str] | None = None
        self._range: list[float] | None = None
        self.trained_rows: str | None = None  # their fingerprint, of a network from a checkpoint
        self._hash: str | None = None  # fingerprint of the training rows here
        if preprocessing is not None:
            self._adopt(preprocessing)

    def init_arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, with ``None`` for tables in memory: a checkpoint holds no rows."""
        given = super().init_arguments()
        in_memory = {name for name in _TABLES.values() if not isinstance(given.get(name), str | Path | None)}
        return {name: None if name in in_memory else value for name, value in given.items()}

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """Return the data of a checkpoint, with what was fitted on their training rows.

        Options of the checkpoint that have no effect on the tables given here are left out.

        Args:
            path: Path of the checkpoint.
            **options: Arguments that take the place of those in the checkpoint, such as ``predict_table``.

        Raises:
            CheckpointError: The network was trained on other data than a table.
        """
        from intff_lightning.checkpoints import read_checkpoint  # which imports datamodules

        checkpoint = read_checkpoint(path)
        recipe = checkpoint.get("recipes", {}).get("data", {})
        if not recipe.get("init_args", {}).get("preprocessing"):
            raise CheckpointError(f"{path}: its network was not trained on a table (TableDataModule).")
        for name in ("target", "categorical", "ignore", "regression"):
            if name in options:
                raise ConfigurationError(
                    f"{name} has no effect: {path} tells what the network reads. Leave {name} out."
                )
        arguments = {name: from_recipe(value) for name, value in recipe["init_args"].items()}
        tables: dict[Part, Any] = {part: {**arguments, **options}.get(name) for part, name in _TABLES.items()}
        idle = table_options.without_effect(tables, {**arguments, **options}, options)
        made = cls(**{**{name: value for name, value in arguments.items() if name not in idle}, **options})
        made.trained_rows = checkpoint.get(recipe["class_path"].rpartition(".")[2], {}).get("rows")
        return made

    # ---------------------------------------------------------------- what was fitted

    @property
    def class_names(self) -> list[str] | None:
        """Values of the target column in the order of the classes; ``None`` for regression."""
        if self.regression:
            return None
        self._fit()
        return self._names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (D,) of a sample; the training table is not read again if a checkpoint tells it."""
        return (len(self.feature_names),)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features of a sample, such as ``age``, ``missingindicator_age`` and ``port_C``."""
        return self._fit().features

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What was fitted on the training rows, in plain values; checkpoints keep it."""
        state = self._fit().state()
        return {**state, "target": self.target, "classes": self._names, "target_range": self._range}

    def _adopt(self, state: Mapping[str, Any]) -> None:
        self._preprocessing = Preprocessing(state)
        self._names, self._range, self._hash = state["classes"], state["target_range"], None
        if self.regression is not (self._names is None):
            raise ConfigurationError(f"regression={self.regression}, and the network was trained for the other task.")
        self._tell()

    def _tell(self) -> None:
        """Note what was fitted where checkpoints and the network look for it."""
        if self._names is not None:
            self._num_classes = self.inner.num_classes = len(self._names)
        if self._range is not None:
            self._target_range = self._range
        self.hparams["preprocessing"] = self.preprocessing

    def _fit(self) -> Preprocessing:
        """Fit on the training rows, at the first call."""
        if self._preprocessing is None:
            table, where = self._table("train"), self._where("train")
            if table is None:
                raise ConfigurationError(
                    f"{type(self).__name__} has no training rows, and does not know what was fitted on them:\n"
                    "give table=, or preprocessing= from a checkpoint."
                )
            names = [name for name in table if name not in (self.target, self.split, *self.ignore)]
            self._check_columns(table, where)
            if not names:
                raise DataError(f"{where}: no column is left beside the target.")
            target = self._target_cells(table, where)
            index = self._rows()
            rows = index["train"].numpy()
            self._preprocessing = Preprocessing().fit(table, names, self.categorical, where, rows)
            if self.regression and self._target_range is None:
                trained = numbers(target, str(self.target), where)[rows]
                self._range = range_of(torch.from_numpy(trained).float())
            elif self.regression:
                self._range = self._target_range
            else:
                seen = torch.cat([index["train"], index["val"]]).numpy()
                own = self._table("val")
                more = [] if own is None else self._target_cells(own, self._where("val"))
                self._names = value_names([*target[seen], *more])
            self._tell()
        return self._preprocessing

    def _check_columns(self, table: Columns, where: str) -> None:
        if self.target is None:
            raise ConfigurationError(
                f"{where}: which column is to be predicted? Give target=, one of {', '.join(table)}."
            )
        for name in (self.target, *self.categorical, *self.ignore, *([self.split] if self.split else [])):
            if name not in table:
                raise ConfigurationError(f"{where}: there is no column {name!r}. Its columns are {', '.join(table)}.")

    def _target_cells(self, table: Columns, where: str) -> Any:
        """Return the target of every row."""
        if self.target not in table:
            raise DataError(f"{where}: there is no column {self.target!r}, the target.")
        cells = table[str(self.target)]
        gone = [row for row, cell in enumerate(cells) if cell is None]
        if gone:
            raise DataError(
                f"{where}: {len(gone)} rows have no value of the target {self.target!r}, the first of them is row "
                f"{gone[0]}. Remove them, or predict them by predict_table=."
            )
        return cells

    # ---------------------------------------------------------------- tables and rows

    def _where(self, part: Part) -> str:
        own = part if self._given_tables[part] is not None else "train"
        given = self._given_tables[own]
        return str(given) if isinstance(given, str) else _TABLES[own]

    def _table(self, part: Part) -> Columns | None:
        """Return the table that was given for a part, read at the first call."""
        if part not in self._tables:
            given = self._given_tables[part]
            # texts for missing values were chosen for the training table, and need not occur in others
            expected = part == "train" and self._preprocessing is None and self._says_missing
            read = (self._where(part), self.separator, self.missing, expected)
            self._tables[part] = None if given is None else read_table(given, *read)
        return self._tables[part]

    def _division(self, part: Part) -> Part | None:
        """Return the part of ``table`` whose rows these are, or ``None`` if they are those of another table."""
        part = "test" if part == "predict" and self._given_tables["predict"] is None else part
        own = part != "train" and self._given_tables[part] is not None
        return None if own or self._given_tables["train"] is None else part

    def source_rows(self, part: Part) -> Tensor | None:
        """Return the rows of ``table`` that belong to a part; ``None`` if it has a table of its own."""
        divided = self._division(part)
        return None if divided is None else self._rows()[divided]

    def _rows(self) -> dict[Part, Tensor]:
        """Return the rows of ``table`` that belong to each part."""
        if self._index is None:
            table = self._table("train")
            assert table is not None  # the caller has looked
            every = torch.arange(height(table))
            if self.split is not None:
                self._check_columns(table, self._where("train"))
                self._index = named(table[self.split], self.split)
                if not len(self._index["train"]):
                    raise DataError(f"{self._where('train')}: column {self.split!r} names no row to train on.")
            else:
                count = count_of("test_size", self.test_size, len(every)) if self._table("test") is None else 0
                test, rest = drawn(every, count, self.val_seed, _TEST)
                self._index = {"test": test, "val": every[:0], "train": rest}
            if len(self._index["val"]):
                why = f"column {self.split!r} names the validation rows"
                table_options.check_size("val_size", self.init_arguments(), why)
                self.refuse(("val_seed",), why)
            else:
                count = self.held_out(len(self._index["train"])) if self._table("val") is None else 0
                val, rest = drawn(self._index["train"], count, self.val_seed)
                self._index |= {"val": val, "train": rest}
        return self._index

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the rows of a part, with samples ``(D,)`` float32.

        Raises:
            DataError: The table cannot be read, a column is missing, or a value is refused.
        """
        own = self._table(part)
        if part == "train" or own is None:
            whole = self._table("train")
            index = None if whole is None or part == "predict" else self._rows()[part]
            if whole is None or index is None or not len(index):
                return None
            own, rows = whole, index.numpy()
        else:
            rows = np.arange(height(own))
        where = self._where(part)
        samples = self._fit().transform(own, where, rows)
        return InMemoryDataset(samples, self._target(own, part, where, rows), regression=self.regression)

    def _target(self, table: Columns, part: Part, where: str, rows: Cells) -> Tensor:
        """Return numbers, or classes, of the rows of a part; -1 for those to predict."""
        if part == "predict":
            return torch.full((len(rows),), -1.0 if self.regression else -1)
        cells = self._target_cells(table, where)[rows]
        if self.regression:
            return torch.from_numpy(numbers(cells, str(self.target), where, rows).astype(np.float32))
        classes = {name: number for number, name in enumerate(self._names or ())}
        strange = sorted({text(cell) for cell in cells} - classes.keys())
        if strange:
            raise DataError(
                f"{where}: the target {self.target!r} has the value {strange[0]!r}, which no row for training has.\n"
                f"The classes are {', '.join(list(classes)[:10])}."
            )
        return torch.tensor([classes[text(cell)] for cell in cells])

    def divide(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Keep all rows: :meth:`load` has divided them, to fit on training rows alone."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        return torch.arange(size), torch.arange(0)

    # ---------------------------------------------------------------- checkpoints

    def setup(self, stage: str) -> None:
        """Set up the data of a stage; warn if a network is trained further on other rows."""
        super().setup(stage)
        if stage == "fit" and self._given_tables["train"] is not None:
            if self.trained_rows not in (None, self._fingerprint()):
                warnings.warn(
                    "the network of the checkpoint was trained on other rows. If it is trained further, some of them "
                    "may be validation or test rows here. Give val_table= and test_table=, unless all rows are new.",
                    stacklevel=2,
                )
            self.trained_rows = self._fingerprint()

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, or ``None`` if there is none.

        Raises:
            CheckpointError: The network of the checkpoint may have been trained on these rows.
        """
        self._check_apart(part)
        return super().dataset(part)

    def loader(self, part: Part) -> Any:
        self._check_apart(part)  # a Trainer asks for loaders after it has loaded a checkpoint
        return super().loader(part)

    def _check_apart(self, part: Part) -> None:
        """Refuse rows of ``table`` to evaluate if other rows of it were trained on, which may be the same ones."""
        if part == "train" or self._division(part) is None or self.trained_rows in (None, self._fingerprint()):
            return
        raise CheckpointError(
            f"{self._where('train')}: the training rows are not those of the checkpoint, so its network may have been "
            f"trained on these {part} rows.\nGive {_TABLES[part]}=, or the table and the options (val_seed, val_size, "
            "test_size) of the training."
        )

    def state_dict(self) -> dict[str, Any]:
        trained = self.trained_rows or self._fingerprint()
        return {**super().state_dict(), "preprocessing": self.preprocessing, "rows": trained}

    def _fingerprint(self) -> str | None:
        """Return a hash of the training rows in the columns that are read, or ``None`` without a training table."""
        table = self._table("train")
        if table is not None and self._hash is None:
            index, made = self._rows()["train"].numpy(), hashlib.blake2b(digest_size=16)
            for name in sorted({*self._fit().names, str(self.target)} & table.keys()):
                cells = table[name][index]
                made.update("\0".join([name, *("" if cell is None else text(cell) for cell in cells)]).encode())
            self._hash = made.hexdigest()
        return self._hash

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read tables as the network of the checkpoint did."""
        super().load_state_dict(state_dict)
        saved, self.trained_rows = state_dict["preprocessing"], state_dict["rows"]
        fits = self.trainer is not None and self.trainer.state.fn == "fit"
        if fits and self.trained_rows not in (None, self._fingerprint()):
            raise CheckpointError(
                "the training rows are not those of the checkpoint.\nResume with the same table, or train anew."
            )
        if saved != self.preprocessing:
            self.inner.forget()
            self._adopt(saved)
