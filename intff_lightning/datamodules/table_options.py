"""Checks of the options of tables, before any table is read."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.reading import PREFIX
from intff_lightning.errors import ConfigurationError

SIZE = 0.2
"""Default share of the rows for validation, and of those for test."""


def check_values(test_size: float, separator: str, **lists: Any) -> None:
    """Refuse options out of range or of another type; ``lists`` are those that hold names or texts."""
    if not test_size >= 0 or (test_size >= 1 and test_size != int(test_size)):
        raise ConfigurationError(f"test_size={test_size}: a number of rows or a share below 1 is needed, 0 or more.")
    if len(separator) != 1:
        raise ConfigurationError(f"separator={separator!r}: one character is needed.")
    for name, value in lists.items():
        if isinstance(value, str):
            raise ConfigurationError(f"{name}={value!r}: a list is needed, {name}=[{value!r}].")


def check_columns(target: str | None, split: str | None, categorical: Collection[str], ignore: Collection[str]) -> None:
    """Refuse names of columns that would have no effect."""
    for option, names in (("categorical", categorical), ("ignore", ignore)):
        for role, column in (("target", target), ("split", split)):
            if column is not None and column in names:
                raise ConfigurationError(
                    f"{option}: {column!r} has no effect, because it is the {role} and no feature. Leave it out."
                )
    both = [name for name in categorical if name in ignore]
    if both:
        raise ConfigurationError(f"categorical: {both[0]!r} has no effect, because ignore names it too. Leave it out.")
    if target is not None and target == split:
        raise ConfigurationError(f"target and split are both {target!r}, and two columns are needed.")


def check_tables(
    tables: Mapping[Part, Any],
    split: str | None,
    arguments: Mapping[str, Any],
    refuse: Callable[[tuple[str, ...], str], None],
) -> None:
    """Refuse options that have no effect on these tables.

    Args:
        tables: What was given for each part, or ``None``.
        split: Name of the column that names the parts.
        arguments: Arguments that the datamodule was given.
        refuse: Refuses options of :class:`~intff_lightning.datamodules.PairedDataModule`.
    """
    if all(table is None for table in tables.values()):
        raise ConfigurationError("TableDataModule has no data: give table=, a CSV file or a data frame.")
    if split is not None and not (tables["val"] is None and tables["test"] is None):
        raise ConfigurationError(
            "split names the rows of each part, so leave val_table and test_table out, or set split to null."
        )
    if tables["val"] is not None:
        check_size("val_size", arguments, "val_table gives the validation data")
    if tables["test"] is not None:
        check_size("test_size", arguments, "test_table gives the test data")
    if split is not None:
        check_size("test_size", arguments, f"column {split!r} names the test rows")
    if not draws_rows(tables, split, arguments):
        refuse(("val_seed",), "no row is drawn for validation or test")
    separator = arguments.get("separator", ",")
    if separator != "," and not reads_files(tables.values()):
        raise ConfigurationError(f"separator={separator!r} has no effect: no table is a CSV file. Leave separator out.")


def check_size(name: str, arguments: Mapping[str, Any], why: str) -> None:
    """Refuse a size that has no effect; the command line and recipes give every option, with its default."""
    size = arguments.get(name)
    if size not in (None, SIZE):
        raise ConfigurationError(f"{name}={size} has no effect: {why}. Leave {name} out.")


def draws_rows(tables: Mapping[Part, Any], split: str | None, arguments: Mapping[str, Any]) -> bool:
    """Tell whether rows are drawn for validation or test, as far as the options tell."""
    val = tables["val"] is None and arguments.get("val_size") != 0
    test = tables["test"] is None and split is None and arguments.get("test_size") != 0
    return val or test


def reads_files(tables: Collection[Any]) -> bool:
    """Tell whether one of the tables is a CSV file."""
    return any(isinstance(each, Path) or (isinstance(each, str) and not each.startswith(PREFIX)) for each in tables)


def without_effect(
    tables: Mapping[Part, Any], arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> Collection[str]:
    """Return the options of a checkpoint that the tables in ``options`` leave without effect."""
    idle: set[str] = set()
    for part in ("val", "test"):
        if options.get(f"{part}_table") is not None:  # its rows take the place of those of the training table
            idle |= {f"{part}_size", "split"}
    left = {name: value for name, value in arguments.items() if name not in idle}
    if not draws_rows(tables, left.get("split"), left):
        idle.add("val_seed")
    if not reads_files(tables.values()):
        idle.add("separator")
    return idle
