"""Committed results and every Markdown table of the project."""

import re
import subprocess

import pytest
from conftest import ROOT

from intff_lightning.reporting.results import markdown_table


def _cells(line):
    """Number of cells in a row, as GitHub counts them: a pipe inside backticks splits too, unless it is escaped."""
    return len(re.split(r"(?<!\\)\|", line.strip().strip("|")))


def _documents():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md")]
    return [name for name in names if (ROOT / name).is_file()]


@pytest.mark.parametrize("name", _documents())
def test_every_row_of_a_markdown_table_has_the_cells_of_its_header(name):
    width = None
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
        if not line.lstrip().startswith("|"):
            width = None
            continue
        width = width or _cells(line)
        assert _cells(line) == width, f"{name}:{number}: {line}"


def test_a_pipe_in_a_cell_is_escaped():
    text = markdown_table(["variant", "%"], [["dense | overlay", "95.97"], ["a", "b"]])
    assert text == "| variant | % |\n| --- | --- |\n| dense \\| overlay | 95.97 |\n| a | b |\n"
    assert {_cells(line) for line in text.splitlines()} == {2}


def test_committed_results_are_what_their_writer_gives():
    import json

    from intff_lightning.reproduce import tables
    from intff_lightning.reproduce.command import COMMANDS

    for command in COMMANDS:
        path = ROOT / "results/paper" / f"{command.name}.md"
        rows = json.loads(path.with_suffix(".json").read_text())
        if command.facts is None:
            written = tables.markdown(command.title, rows, command.note)
        else:
            written = tables.plain_markdown(command.title, rows)
        assert path.read_text() == written, command.name
