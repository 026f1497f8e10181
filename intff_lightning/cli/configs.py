"""The packaged config files: found by name, and listed with the notes at their heads."""

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from intff_lightning.errors import ConfigurationError

CONFIGS = Path(__file__).parents[1] / "configs"
"""Folder of the packaged config files."""

_NOTE = re.compile(r"# (accuracy|minutes|command): (.+)")


@dataclass(frozen=True)
class Notes:
    """What the comment lines at the head of a config file say: a description, then a line ``key: value`` for each note.

    Args:
        description: What is trained on which data.
        accuracy: Mean accuracy on the test data, ``98.98 % (3 seeds)``; empty if it is not measured.
        minutes: Mean duration of the training, ``1.7 (2 cores)``; empty if it is not measured.
        command: The command that wrote the file, if it was written by one.
    """

    description: str
    accuracy: str = ""
    minutes: str = ""
    command: str = ""

    def head(self) -> str:
        """Return the lines at the head of a config file."""
        lines = [self.description]
        lines += [f"{key}: {value}" for key in ("accuracy", "minutes", "command") if (value := getattr(self, key))]
        return "".join(f"# {line}\n" for line in lines)


def read_notes(path: Path) -> Notes:
    """Return the notes at the head of a config file."""
    lines: list[str] = []
    notes: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        note = _NOTE.fullmatch(line)
        if note:
            notes[note[1]] = note[2]
        else:
            lines.append(line.removeprefix("#").strip())
    return Notes(" ".join(lines), **notes)


def config_names() -> list[str]:
    """Return the names of the packaged configs (``digits``, ``paper/NAME``), those of the paper's rows last."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def find_config(name: str) -> Path:
    """Return a config file by its path, or by the name of a packaged one (``digits``, ``paper/NAME``)."""
    path, packaged = Path(name), CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    if path.exists() and not path.is_dir():
        return path
    if packaged.is_file():
        return packaged
    if path.is_dir():
        raise ConfigurationError(f"--config: {name} is a folder, and not a config file.")
    near = difflib.get_close_matches(path.stem, config_names(), n=1) or ["digits"]
    raise ConfigurationError(
        f"--config: there is no file {name}, nor a packaged config of this name; {near[0]} is one.\n"
        "`intff configs` lists them all."
    )


def list_configs(arguments: Sequence[str] = ()) -> int:
    """Print the packaged configs with their notes, and return an exit code; ``--help`` is the only argument."""
    if arguments in (["--help"], ["-h"]):
        print("usage: intff configs\n\nList the packaged configs with their notes. Train one: intff fit --config NAME")
        return 0
    if arguments:
        sys.stderr.write(f"error: there is no option {arguments[0]}: `intff configs` lists the packaged configs.\n")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 150)  # a file has no width of its own
    groups: dict[str, list[str]] = {"Configs": [], "Rows of the paper's tables": []}
    for name in config_names():
        groups["Rows of the paper's tables" if "/" in name else "Configs"].append(name)
    for title, names in groups.items():
        table = Table("name", "description", title=title, box=None, title_justify="left", padding=(0, 2, 0, 0))
        for heading in ("accuracy", "minutes"):
            table.add_column(heading, no_wrap=True)
        table.columns[0].no_wrap = True
        for name in names:
            notes = read_notes(CONFIGS / f"{name}.yaml")
            table.add_row(name, notes.description, notes.accuracy, notes.minutes)
        console.print(table, "")
    console.print("Train one: intff fit --config NAME. The accuracy is that on the test data.")
    return 0
