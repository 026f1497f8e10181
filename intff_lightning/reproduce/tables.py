"""Results over seeds as a table: on the screen, in JSON, in Markdown."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from intff_lightning.reporting.results import about
from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce.rows import Row


def summarize(row: Row, procedure: str, results: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    """Make one line of a table from the results of its seeds.

    Args:
        row: Row of the table.
        procedure: One of :data:`~intff_lightning.reproduce.rows.PROCEDURES`.
        results: Results of :meth:`~intff_lightning.reproduce.runs.Run.result`, one per seed, from seed 0 on.
        command: Command line that made them.
    """
    accuracy = [result["test_accuracy"] for result in results]
    units = len(results[0]["unit_accuracy"])
    by_unit = zip(*(result["unit_accuracy"] for result in results), strict=True)
    line = {
        "table": row.table,
        "algorithm": row.algorithm,
        "network": row.network,
        "procedure": procedure,
        "corruption": row.corruption,
        "rate": row.rate,
        "paper_accuracy": row.paper_accuracy,
        "accuracy_mean": statistics.fmean(accuracy),
        "accuracy_std": statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0,
        "accuracies": accuracy,
        "unit_accuracy_mean": [statistics.fmean(unit) for unit in by_unit],
        "seeds": len(results),
        "parameters": results[0]["parameters"],
        "epochs": results[0]["epochs"],
        "passes": results[0]["passes"],
        "seconds": statistics.fmean(result["seconds"] for result in results),
        "threads": results[0]["threads"],
        "device": results[0]["device"],
        "quick": results[0]["quick"],
        "command": command,
        **about(),
    }
    if row.table == "figure3":  # mean local loss of every unit and epoch, for the first seed
        line["unit_losses"] = [[epoch[f"train/loss/unit_{k}"] for epoch in results[0]["history"]] for k in range(units)]
    return line


_COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "algorithm": ("algorithm", lambda row: {"intff": "IntFF", "ff": "FF", "bp": "BP"}[row["algorithm"]]),
    "network": ("network", lambda row: row["network"]),
    "corruption": ("training set", lambda row: _training_set(row)),
    "procedure": ("procedure", lambda row: row["procedure"]),
    "paper_accuracy": ("paper %", lambda row: "" if row["paper_accuracy"] is None else f"{row['paper_accuracy']:.2f}"),
    "accuracy_mean": ("test accuracy %", lambda row: _accuracy(row)),
    "unit_accuracy_mean": (
        "units alone %",
        lambda row: " ".join(f"{value:.2f}" for value in row["unit_accuracy_mean"]),
    ),
    "seeds": ("seeds", lambda row: str(row["seeds"])),
    "parameters": ("parameters", lambda row: f"{row['parameters']:,}"),
    "passes": ("passes", lambda row: f"{row['passes']:,}"),
    "seconds": ("seconds", lambda row: f"{row['seconds']:.0f}"),
}


def _training_set(row: dict[str, Any]) -> str:
    if row["corruption"] == "clean":
        return "clean"
    return f"{row['corruption'].replace('_', ' ')} {100 * row['rate']:.0f} %"


def _accuracy(row: dict[str, Any]) -> str:
    return f"{row['accuracy_mean']:.2f}" + (f" ± {row['accuracy_std']:.2f}" if row["seeds"] > 1 else "")


def _shown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns in which these rows have something to say."""
    hidden = set()
    if len({(row["corruption"], row["rate"]) for row in rows}) == 1:
        hidden.add("corruption")
    if all(row["paper_accuracy"] is None for row in rows):
        hidden |= {"paper_accuracy", "parameters", "passes"}
    return [name for name in _COLUMNS if name not in hidden]


def screen(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Make the table for a terminal."""
    table = Table(title=title, title_justify="left")
    names = _shown(rows)
    for name in names:
        left = name in ("algorithm", "network", "corruption", "procedure")
        # a long list of units may fold, a number must not
        table.add_column(_COLUMNS[name][0], justify="left" if left else "right", no_wrap=name != "unit_accuracy_mean")
    for row in rows:
        table.add_row(*(_COLUMNS[name][1](row) for name in names))
    return table


def markdown(title: str, rows: Sequence[dict[str, Any]], note: str) -> str:
    """Return the table for a file, with the commands that made it."""
    names = _shown(rows)
    made = {
        f"`{row['command']}`: torch {row['versions']['torch']}, {row['device']}, {row['threads']} threads per run, "
        f"{row['date']}.": None
        for row in rows  # rows may come from several calls
    }
    header = [_COLUMNS[name][0] for name in names]
    lines = [[_COLUMNS[name][1](row) for name in names] for row in rows]
    return _document([f"# {title}", "", *made, "", note], header, lines)


def _document(head: list[str], header: list[str], lines: list[list[str]]) -> str:
    return "\n".join([*head, "", markdown_table(header, lines)])


def rounds_markdown(title: str, note: str, lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of :func:`~intff_lightning.reproduce.rounds.summarize_rounds` for a file."""
    layers = max(len(line["live"]) for line in lines)
    several = len({(line["corruption"], line["rate"]) for line in lines}) > 1
    names = {
        "last": "last round %",
        "best_validation": "best on validation %",
        "best_validation_round": "its round",
        "best_test": "best on test %",
        "best_test_round": "its round",
        "unit_0": "unit 0 alone %",
        "validation": "validation %",
    }
    header = ["algorithm", "network", *(["training set"] if several else []), "seed", *names.values()]
    header += [f"live {k}" for k in range(1, layers + 1)]
    cells = []
    for line in lines:
        live = line["live"] + [None] * (layers - len(line["live"]))
        place = [_COLUMNS[name][1](line) for name in ("algorithm", "network", *(["corruption"] if several else []))]
        numbers = ["" if value is None else _number(value) for value in [*(line.get(name) for name in names), *live]]
        cells.append([*place, str(line["seed"]), *numbers])
    return _document([f"# {title}", "", note], header, cells)


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


_ALWAYS = ("table", "command", "versions", "machine", "date")


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return names and values of what differs from row to row."""
    names = [name for name in rows[0] if name not in _ALWAYS]
    values = [
        [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows
    ]
    return [[name.replace("_", " ") for name in names], *values]


def plain(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Make a table of any rows for a terminal."""
    header, *lines = _cells(rows)
    table = Table(*header, title=title, title_justify="left")
    for line in lines:
        table.add_row(*line)
    return table


def plain_markdown(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of any rows for a file."""
    header, *lines = _cells(rows)
    made = f"`{rows[0]['command']}`, torch {rows[0]['versions']['torch']}, {rows[0]['date']}."
    return _document([f"# {title}", "", made], header, lines)
