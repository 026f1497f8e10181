"""Committed results and every Markdown table of the project."""

import json
import re
import subprocess

import pytest
from conftest import ROOT

from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce import rounds, tables
from intff_lightning.reproduce.paper import COMMANDS, rounds_text

_RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")


def _cells(line):
    """Number of cells in a row, as GitHub counts them: a pipe inside backticks splits too, unless it is escaped."""
    inside = re.sub(r"^\||(?<!\\)\|$", "", line.strip())
    return len(re.split(r"(?<!\\)\|", inside))


def _tables(text):
    """Yield the tables of a text outside code blocks, as lists of numbered lines: a header, its rule, and rows."""
    fence, found = "", []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        mark = re.match(r"`{3,}|~{3,}", bare)
        if mark and (not fence or (mark[0].startswith(fence) and bare == mark[0])):
            fence = "" if fence else mark[0]
        if bare and not mark and not fence:
            found.append((number, line))
        else:
            rules = [i for i, (_, rule) in enumerate(found) if "|" in rule and _RULE.fullmatch(rule.strip())]
            if rules and rules[0]:
                yield found[rules[0] - 1 :]
            found = []


def _documents():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md")]
    return [name for name in names if (ROOT / name).is_file()]


@pytest.mark.parametrize("name", _documents())
def test_every_row_of_a_markdown_table_has_the_cells_of_its_header(name):
    text = (ROOT / name).read_text()
    for table in _tables(text):
        for number, line in table:
            assert _cells(line) == _cells(table[0][1]), f"{name}:{number}: {line}"
    if name.startswith("results/"):
        assert len(list(_tables(text))) == (2 if name.startswith("results/tasks/") else 1)  # means and differences


def test_cells_are_counted_as_github_counts_them():
    rows = {"| a | b |": 2, "a | b": 2, "| a || b |": 3, "| a ||": 2, "| a \\| b | c |": 2, "| a \\|": 1}
    rows |= {"| `a | b` | c |": 3, "| `a \\| b` | c |": 2}
    assert {row: _cells(row) for row in rows} == rows
    text = "words\n\na | b\n--- | ---\n1 | 2\n\n```text\n| no | table |\n| --- |\n```\n\n| c |\n| --- |\n| 3 | 4 |\n"
    assert [[number for number, _ in table] for table in _tables(text)] == [[3, 4, 5], [12, 13, 14]]


def test_a_pipe_in_a_cell_is_escaped():
    text = markdown_table(["variant", "%"], [["dense | overlay", "95.97"], ["a", "b"]])
    assert text == "| variant | % |\n| --- | --- |\n| dense \\| overlay | 95.97 |\n| a | b |\n"
    assert {_cells(line) for line in text.splitlines()} == {2}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_committed_results_are_what_their_writer_gives(command):
    path = ROOT / "results/paper" / f"{command.name}.md"
    rows = json.loads(path.with_suffix(".json").read_text())
    if command.facts is None:
        written = tables.markdown(command.title, rows, command.note)
    else:
        written = tables.plain_markdown(command.title, rows)
    assert path.read_text() == written


@pytest.mark.parametrize("path", sorted((ROOT / "results/paper").glob("*_author*.csv")), ids=lambda path: path.stem)
def test_committed_rounds_give_their_table(path):
    rows, lines = rounds.read_table(path), json.loads(path.with_suffix(".json").read_text())
    assert lines == rounds.summarize_rounds(rows)
    table, _, procedure = path.stem.partition("_")
    command = next(command for command in COMMANDS if command.name == table)
    assert path.with_suffix(".md").read_text() == tables.rounds_markdown(*rounds_text(command, procedure), lines)


@pytest.mark.parametrize("path", sorted((ROOT / "results/benchmarks").glob("*.json")), ids=lambda path: path.stem)
def test_committed_benchmarks_are_what_their_writer_gives(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.results import markdown

    found = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == markdown(path.stem, found, found["rows"], found["note"])


def test_the_total_of_memory_is_the_sum_of_its_parts():
    for row in json.loads((ROOT / "results/benchmarks/memory.json").read_text())["rows"]:
        parts = row["64 units, MB"] + row["parameters, gradients, Adam, MB"]
        assert row["total, MB"] == pytest.approx(parts, rel=1e-12)
