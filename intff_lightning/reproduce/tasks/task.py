"""A task: rows that are measured once per case and seed, kept, and put together as a table."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intff_lightning.files import atomic_write
from intff_lightning.reporting.results import about
from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce.characteristics.intervals import BASELINE, paired_interval

Rows = Callable[[int, str, bool], list[dict[str, Any]]]
"""Measures with a seed, data in a folder, and quickly or not; for the rows see :class:`Task`."""

NAMES = {"intff": "IntFF", "channels": "IntFF by class", "ff": "FF", BASELINE: "backpropagation"}
"""How algorithms are shown; any other name is shown as it is."""


@dataclass(frozen=True)
class Task:
    """A task and how it is measured.

    Args:
        name: Name of the task on the command line.
        title: Heading of its table.
        note: What was measured, in plain words.
        cases: Functions of (seed, data_dir, quick) by name, such as one for each data set. Each call is resumable by
            itself. It returns rows ``{"what": str, "algorithm": str, "measure": str, "value": float,
            "better": "higher" | "lower" | ""}``; with ``"averaged": False``, a row is no part of the average.
        average: Add the mean over everything that has a measure, for each algorithm.
        settings: How it is measured, in plain values. What was measured otherwise is measured again.
        check: Called before anything is measured; raises a ConfigurationError if a library is missing.
    """

    name: str
    title: str
    note: str
    cases: Mapping[str, Rows]
    average: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[], object] | None = None


@dataclass(frozen=True)
class Measurement:
    """A case of a task with one seed; it is measured once, and its rows are kept in a file."""

    task: Task
    case: str
    seed: int
    quick: bool

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.task.name}_{self.case}_seed{self.seed}{'_quick' if self.quick else ''}"

    def rows(self, data_dir: str, folder: Path) -> list[dict[str, Any]]:
        """Measure, or read what an earlier call with the same settings has written into ``folder``."""
        path = folder / f"{self.name}.json"
        settings = json.loads(json.dumps(self.task.settings))
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("settings") == settings:
            return list(kept["rows"])
        begun = time.perf_counter()
        rows = self.task.cases[self.case](self.seed, data_dir, self.quick)
        written = {"settings": settings, "seconds": round(time.perf_counter() - begun, 1), "rows": rows}
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(written, indent=1) + "\n")
        return rows


def summarize(
    task: Task, by_seed: Sequence[Sequence[dict[str, Any]]], quick: bool, command: str
) -> list[dict[str, Any]]:
    """Return one line per thing, measure and algorithm, over the seeds.

    Args:
        task: The task.
        by_seed: Rows of each seed.
        quick: Whether they are those of a quick look.
        command: Command line that made them.

    Returns:
        Lines with the ``values`` by seed, their ``mean`` and ``std``, and the ``difference`` from backpropagation with
        its 95 % ``interval`` (Student's t, paired by seed; ``None`` for one seed).
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    better: dict[tuple[str, str], str] = {}
    for rows in by_seed:
        for row in [*rows, *(_averages(rows) if task.average else [])]:
            values.setdefault((row["what"], row["measure"], row["algorithm"]), []).append(float(row["value"]))
            better[row["what"], row["measure"]] = row["better"]
    lines = []
    for (what, measure, algorithm), found in values.items():
        baseline = values.get((what, measure, BASELINE))
        paired = (
            baseline is not None and algorithm != BASELINE and len(baseline) == len(found) and better[what, measure]
        )
        compared = paired_interval(found, baseline) if paired and baseline is not None else None
        lines.append(
            {
                "task": task.name,
                "what": what,
                "measure": measure,
                "better": better[what, measure],
                "algorithm": algorithm,
                "mean": statistics.fmean(found),
                "std": statistics.stdev(found) if len(found) > 1 else 0.0,
                "values": found,
                "difference": None if compared is None else compared.difference,
                "interval": None if compared is None or compared.low is None else [compared.low, compared.high],
                "seeds": len(found),
                "quick": quick,
                "command": command,
                **about(),
            }
        )
    return lines


def _averages(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over all things that have a measure, for the algorithms that have it for all of them."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if not row.get("averaged", True):
            continue
        found.setdefault((row["measure"], row["algorithm"]), {})[row["what"]] = row
    things = {measure: {what for (m, _), by in found.items() if m == measure for what in by} for measure, _ in found}
    return [
        {
            **next(iter(by_what.values())),
            "what": f"mean of {len(by_what)}",
            "value": statistics.fmean(row["value"] for row in by_what.values()),
        }
        for (measure, _), by_what in found.items()
        if by_what.keys() == things[measure] and len(by_what) > 1
    ]


def markdown(task: Task, lines: Sequence[dict[str, Any]]) -> str:
    """Return the tables of a task for a file: the means, and the differences from backpropagation."""
    first = lines[0]
    note = "A quick look: these figures mean nothing." if first["quick"] else task.note
    seeds = f"{first['seeds']} seeds, 0 to {first['seeds'] - 1}" if first["seeds"] > 1 else "seed 0"
    head = [
        f"# {task.title}",
        "",
        f"`{first['command']}`: torch {first['versions']['torch']}, {first['date']}.",
        "",
        f"{note} Mean ± standard deviation over {seeds}.",
        "",
    ]
    algorithms = list(dict.fromkeys(line["algorithm"] for line in lines))
    cells = {(line["what"], line["measure"], line["algorithm"]): line for line in lines}
    places = list(dict.fromkeys((line["what"], line["measure"]) for line in lines))
    header = ["data", "measure", *(NAMES.get(name, name) for name in algorithms)]
    text = [*head, markdown_table(header, [[*at, *(_mean(cells.get((*at, a))) for a in algorithms)] for at in places])]
    others = [a for a in algorithms if any(cells.get((*at, a), {}).get("interval") for at in places)]
    if others:
        header = ["data", "measure", *(f"{NAMES.get(name, name)} minus backpropagation" for name in others)]
        compared = [at for at in places if any(cells.get((*at, a), {}).get("interval") for a in others)]
        rows = [[*at, *(_difference(cells.get((*at, a))) for a in others)] for at in compared]
        text += ["Differences from backpropagation, with 95 % intervals (Student's t, paired by seed):", ""]
        text.append(markdown_table(header, rows))
    return "\n".join(text)


def _mean(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return ""
    return f"{line['mean']:#.4g}" + (f" ± {line['std']:#.2g}" if line["seeds"] > 1 else "")


def _difference(line: Mapping[str, Any] | None) -> str:
    if line is None or line["interval"] is None:
        return ""
    low, high = line["interval"]
    return f"{line['difference']:+#.3g} ({low:+#.3g} to {high:+#.3g})"


def measurements(tasks: Iterable[Task], seeds: Sequence[int], quick: bool) -> list[Measurement]:
    """Return all measurements of some tasks, seed by seed, so that an early stop leaves whole seeds."""
    chosen = list(tasks)
    return [Measurement(task, case, seed, quick) for seed in seeds for task in chosen for case in task.cases]
