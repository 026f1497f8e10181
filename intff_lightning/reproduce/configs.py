"""Rows as config files of the command line: ``intff fit --config FILE`` trains one."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from intff_lightning.cli.configs import Notes
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce.procedures import make_procedure
from intff_lightning.reproduce.rows import Row


def file_name(row: Row, kind: str) -> str:
    """Return ``table1_intff_784_100-50_30-10_tuned.yaml``: ``_`` separates units, ``-`` the layers of a unit."""
    units = re.findall(r"\(([\w,]+)\)|(\w+)", row.network.removeprefix("(").removesuffix(")"))
    network = "_".join((unit or layer).replace(",", "-") for unit, layer in units)
    corruption = f"_{row.corruption}_{row.rate:g}" if row.table == "robustness" else ""
    return f"{row.table}_{row.algorithm}_{network}{corruption}_{kind}.yaml"


def config(row: Row, kind: str) -> dict[str, Any]:
    """Return a row as :mod:`intff_lightning.cli` reads it, with seed 0; ``kind`` names its procedure."""
    made = make_procedure(row, kind, 0, "data")
    data = to_recipe(made.data)
    for name in ("data_dir", "seed"):  # the user's choice
        del data["init_args"][name]
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": made.epochs},
        "model": lean(to_recipe(made.module)),
        "data": lean(data),
    }


def lean(value: Any) -> Any:
    """Return a recipe without arguments that are ``None`` and without empty ``init_args``."""
    if isinstance(value, list):
        return [lean(item) for item in value]
    if isinstance(value, dict):
        return {name: lean(item) for name, item in value.items() if item is not None and item != {}}
    return value


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers, and objects whose arguments are all numbers or words, on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flow = not any(isinstance(item, list | dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flow)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        arguments = mapping.get("init_args", {}).values()
        flow = "class_path" in mapping and not any(isinstance(item, list | dict) for item in arguments)
        return super().represent_mapping(tag, mapping, flow_style=flow)


def notes(row: Row, kind: str, measured: Mapping[str, Any] | None) -> Notes:
    """Return the notes at the head of a row's config, with its line of ``NAME.json`` if there is one."""
    name = {"intff": "IntFF", "ff": "FF", "bp": "Backpropagation"}[row.algorithm]
    paper = "" if row.paper_accuracy is None else f" The paper has {row.paper_accuracy:.2f} %."
    figures = {}
    if measured is not None:
        seeds, threads = measured["seeds"], measured["threads"]
        figures["accuracy"] = f"{measured['accuracy_mean']:.2f} % ({seeds} seed{'s'[: seeds > 1]})"
        figures["minutes"] = f"{measured['seconds'] / 60:.1f} ({threads} core{'s'[: threads > 1]})"
    return Notes(
        f"{name} {row.network} of {row.table}, {kind} procedure.{paper}",
        **figures,
        command=f"python -m intff_lightning.reproduce {row.table} --procedure {kind} --configs DIR",
    )


def write(rows: Iterable[tuple[Row, str, Mapping[str, Any] | None]], folder: Path) -> None:
    """Write one file per row and procedure, with what was measured for it, see :func:`notes`."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, kind, measured in rows:
        path = folder / file_name(row, kind)
        text = yaml.dump(config(row, kind), Dumper=_Dumper, sort_keys=False, width=120)
        path.write_text(notes(row, kind, measured).head() + text)
        print(f"written: {path}")
