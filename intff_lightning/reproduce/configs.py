"""Rows as config files of the command line: ``python -m intff_lightning fit --config FILE`` trains one."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from intff_lightning.recipe import recipe
from intff_lightning.reproduce.recipes import make_recipe
from intff_lightning.reproduce.rows import Row

__all__ = ["config", "file_name", "write"]


def file_name(row: Row, kind: str) -> str:
    """``table1_intff_784_100-50_30-10_tuned.yaml``: units are apart by ``_``, a unit's layers by ``-``."""
    units = re.findall(r"\(([\w,]+)\)|(\w+)", row.network.removeprefix("(").removesuffix(")"))
    network = "_".join((unit or layer).replace(",", "-") for unit, layer in units)
    corruption = f"_{row.corruption}_{row.rate:g}" if row.table == "robustness" else ""
    return f"{row.table}_{row.algorithm}_{network}{corruption}_{kind}.yaml"


def config(row: Row, kind: str) -> dict[str, Any]:
    """The row as :mod:`intff_lightning.cli` reads it, seed 0.

    Args:
        row: of a table.
        kind: of recipe.
    """
    made = make_recipe(row, kind, 0, "data")
    data = recipe(made.data)
    data["init_args"] = {
        name: value
        for name, value in data["init_args"].items()
        if name not in ("data_dir", "seed") and value is not None  # those are the user's
    }
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": made.epochs},
        "model": recipe(made.module),
        "data": data,
    }


def write(table: str, rows: Iterable[tuple[Row, str]], folder: Path) -> None:
    """Write a file for every row and kind of recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, kind in rows:
        path = folder / file_name(row, kind)
        paper = "" if row.paper_accuracy is None else f", {row.paper_accuracy:.2f} % in the paper"
        head = (
            f"# {row.algorithm} {row.network} of {table}{paper}; the {kind} recipe, as written by\n"
            f"# python -m intff_lightning.reproduce {table} --recipe {kind} --configs DIR\n"
        )
        path.write_text(head + yaml.safe_dump(config(row, kind), sort_keys=False, width=120))
        print(f"written: {path}")
