"""Tables of measured results, as the pages show them: chosen columns, one number per cell.

A fence ``results`` in a page names a JSON file and the columns to show::

    file: results/paper/table1.json
    where: {procedure: [tuned, channels]}                            # optional: the rows that are kept
    columns: {network: network, accuracy %: accuracy_mean:.2f}       # heading: key, or key:format

``key.2`` is an item of a list, or a part of ``a | b | c``. With ``index`` and ``cells``, each column is a selection of
rows, and rows with the same index share a line::

    index: {training set: corruption}
    cells: accuracy_mean:.2f
    columns: {IntFF: {algorithm: intff}, BP: {algorithm: bp}}

Lines of text that a command has written, or a picture, stand in place of a table. ``missing`` is shown until the file
is there::

    file: results/characteristics/differences.json
    lines: sentences.damage                                          # path to a text, or to a list of lines
    missing: Not measured yet.

    picture: results/characteristics/differences.png
    text: Differences from backpropagation                           # for those who do not see the picture
    missing: Not drawn yet.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

_ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```results\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[\d.,e%-]*")
_WORDS = {
    "intff": "IntFF",
    "ff": "FF",
    "bp": "BP",
    "gaussian_pixels": "Gaussian pixels",
    "unloaded_rows": "unloaded rows",
    "noise_images": "noise images",
    "label_noise": "label noise",
    "conv": "convolutional",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}


class Results(Extension):
    """Replaces the fences of a page before its other fences are read."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_Fences(md), "results", priority=28)  # superfences has 25


class _Fences(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return replaced("\n".join(lines)).split("\n")


def makeExtension(**options: Any) -> Results:
    """Return the extension; Python-Markdown calls this."""
    return Results(**options)


def replaced(markdown: str) -> str:
    """Return a page with tables instead of fences."""
    return _FENCE.sub(lambda fence: textwrap.indent(table(fence[2]), fence[1]), markdown)


def table(specification: str) -> str:
    """Return the Markdown table, lines or picture of a fence."""
    spec = yaml.safe_load(specification)
    if "picture" in spec:
        there = (_ROOT / "docs" / spec["picture"]).is_file()
        return f"![{spec['text']}]({spec['picture']})" if there else str(spec["missing"])
    if "missing" in spec and not (_ROOT / spec["file"]).is_file():
        return str(spec["missing"])
    found = json.loads((_ROOT / spec["file"]).read_text())
    if "lines" in spec:
        for name in spec["lines"].split("."):
            found = found[name]
        return found if isinstance(found, str) else "\n".join(found)
    rows = found if isinstance(found, list) else found["rows"]
    rows = [row for row in rows if _matches(row, spec.get("where", {}))]
    columns, index = spec["columns"], spec.get("index", {})
    if index:
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(_cell(row, key) for key in index.values()), []).append(row)
        lines = [
            [*place, *(_only(group, choice, spec["cells"]) for choice in columns.values())]
            for place, group in groups.items()
        ]
    else:
        lines = [[_cell(row, key) for key in columns.values()] for row in rows]
    heads = [str(name) for name in [*index, *columns]]
    assert lines, f"{spec['file']}: no rows"
    rules = ["---:" if all(_NUMBER.fullmatch(cell) for cell in cells) else "---" for cells in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rules, *lines])


def _matches(row: dict[str, Any], where: dict[str, Any]) -> bool:
    return all(row[key] in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in where.items())


def _only(rows: list[dict[str, Any]], choice: dict[str, Any], cells: str) -> str:
    found = [row for row in rows if _matches(row, choice)]
    assert len(found) < 2, f"{choice}: several rows"
    return _cell(found[0], cells) if found else ""


def _cell(row: dict[str, Any], key: str) -> str:
    name, _, form = key.partition(":")
    if name in row:
        value = row[name]
    else:
        name, _, item = name.rpartition(".")
        items = row[name].split(" | ") if isinstance(row[name], str) else row[name]
        value = items[int(item)] if int(item) < len(items) else None
    if value in (None, "") or (name.endswith("_std") and row["seeds"] == 1):
        return ""
    text = f"{value:{form}}" if form and not isinstance(value, str) else _WORDS.get(str(value), str(value))
    return text.replace("|", "\\|")
