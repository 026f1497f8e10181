"""One page that compares runs: curves, and a table of what differs in their configurations beside their metrics."""

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from intff_lightning._version import __version__
from intff_lightning.errors import ConfigurationError
from intff_lightning.files import atomic_write
from intff_lightning.reporting import pages, plots
from intff_lightning.reporting.runs import History, read_metrics, run_folder

_TITLES = {
    "val/accuracy": "Validation accuracy",
    "val/probe_accuracy": "Validation accuracy of the linear probe",
    "val/loss": "Validation loss",
    "train/loss": "Training loss",
}
_ELSEWHERE = "trainer.default_root_dir"
"""The option that no table shows: the names of the runs tell it."""

_STYLE = """
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: 0; }
img.sample { width: 2.5rem; height: .8rem; vertical-align: middle; margin-right: .5rem; background: #fff; }
table.runs { font-size: .85rem; } table.runs th { padding: 0; } table.runs td { padding: .3rem .5rem; }
table.runs td.number, table.runs td:first-child { white-space: nowrap; }
table.runs button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; width: 100%;
  padding: .3rem .5rem; text-align: inherit; cursor: pointer; }
table.runs button:hover, table.runs button:focus-visible { background: var(--soft); }
table.runs [aria-sort=ascending] button::after { content: " \\25B2"; }
table.runs [aria-sort=descending] button::after { content: " \\25BC"; }
table.runs td.best { font-weight: 600; }
table.stacked { overflow-wrap: anywhere; }
table.stacked, .stacked tbody, .stacked thead, .stacked tr, .stacked td { display: block; font-size: 1rem; }
table.stacked thead tr { display: flex; flex-wrap: wrap; gap: .4rem; margin-bottom: 1rem; }
table.stacked th { border: 1px solid var(--line); border-radius: 6px; font-size: .85rem; }
table.stacked tbody tr { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem;
  margin-bottom: .75rem; }
table.stacked td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .15rem 0; }
table.stacked td::before { content: attr(data-name); color: var(--dim); text-align: left; font-weight: 400; }
table.stacked td:first-child { font-weight: 600; display: block; white-space: normal; }
table.stacked td:first-child::before { content: none; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.runs")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const fit = () => {  // a table that is too wide becomes one block per run
    table.classList.remove("stacked");
    table.classList.toggle("stacked", table.scrollWidth > table.parentElement.clientWidth);
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const number = head.dataset.kind === "number", first = number ? "descending" : "ascending";
    const turned = {ascending: "descending", descending: "ascending"}[head.getAttribute("aria-sort")];
    const order = turned || first, sign = order === "ascending" ? 1 : -1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => number ? a - b : a.localeCompare(b, "en", {numeric: true});
    [...body.rows].sort((a, b) => {  // a run without a value is last in both orders
      const x = value(a), y = value(b);
      return x === "" || y === "" ? (x === "") - (y === "") : sign * compare(x, y);
    }).forEach(row => body.append(row));
    fit();
  }));
  addEventListener("resize", fit);
  fit();
}
"""


@dataclass
class _Run:
    name: str
    folder: Path
    history: History
    settings: dict[str, Any] | None


@dataclass
class _Column:
    """A column of the table: what is shown for each run, and what it is sorted by; ``None`` if a run has no value."""

    title: str
    cells: list[tuple[str, Any] | None]
    compared: bool = False

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return all(isinstance(cell[1], int | float) and not isinstance(cell[1], bool) for cell in self.cells if cell)


def write_comparison(folders: Sequence[Path], out: Path, format: str = "png") -> Path:
    """Write one page that compares runs.

    It draws each metric of the whole network that at least two runs have. The table shows the last value of a metric,
    and the best one of a validation accuracy. Configurations are those of ``config.yaml``, or of ``hparams.yaml`` if no
    run has the former.

    Args:
        folders: Log folders of the runs, or folders whose newest run is taken; two or more.
        out: The page.
        format: Format of the figures in it, ``png`` or ``svg``.

    Returns:
        Path of the page.

    Raises:
        ConfigurationError: A folder has no metrics, a run is given twice, or a run shares no metric with the others.
    """
    runs, notes = _read(folders)
    _check_common(runs)
    columns, texts = _settings(runs)
    with atomic_write(out) as partial:
        partial.write_text(_page(runs, columns + _metrics(runs), notes + texts, format), encoding="utf-8")
    return out


# -------------------------------------------------------------------- what the runs are


def _read(folders: Sequence[Path]) -> tuple[list[_Run], list[str]]:
    given: dict[Path, Path] = {}
    for folder in folders:
        run = run_folder(folder).resolve()
        if run in given:
            both = "is given twice" if folder == given[run] else f"and {given[run]} are the same run"
            raise ConfigurationError(f"{folder} {both}: name each run once.")
        given[run] = folder
    start = os.path.commonpath([run.parent for run in given])
    runs, notes = [], []
    file = "config.yaml" if any((run / "config.yaml").is_file() for run in given) else "hparams.yaml"
    for run in given:
        table = run / "metrics.csv"
        history = {name: points for name, points in read_metrics(table).items() if points} if table.is_file() else {}
        if not history:
            raise ConfigurationError(f"{given[run]} has no metrics.csv, or an empty one: there is nothing to compare.")
        settings, note = _read_settings(run, file)
        runs.append(_Run(os.path.relpath(run, start), given[run], history, settings))
        notes += [f"{runs[-1].name}: {note}"] if note else []
    return runs, notes


def _read_settings(folder: Path, file: str) -> tuple[dict[str, Any] | None, str]:
    """Return the options of a run by name, or ``None`` and the reason."""
    if not (folder / file).is_file():
        return None, f"no {file}, so its configuration is not compared."
    try:
        loaded = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None, f"{file} cannot be read, so its configuration is not compared."
    return _flat(loaded or {}), ""


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a configuration by dotted name. A list of plain values is one leaf."""
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flat(entry, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    return flat


def _whole(run: _Run) -> list[str]:
    """Return the names of the metrics of the whole network."""
    return [name for name in run.history if "/unit_" not in name]


def _check_common(runs: Sequence[_Run]) -> None:
    for run in runs:
        others = {name for other in runs if other is not run for name in _whole(other)}
        if not others & set(_whole(run)):
            names = ", ".join(_whole(run)[:3]) or "no metric of a whole network"
            raise ConfigurationError(f"{run.folder} has no metric in common with the other runs: it has {names}.")


# -------------------------------------------------------------------- the table


def _settings(runs: Sequence[_Run]) -> tuple[list[_Column], list[str]]:
    """Return the options that differ, and a note if there is nothing to show."""
    known = [run.settings for run in runs if run.settings is not None]
    if len(known) < 2:
        return [], ["Fewer than two runs have a configuration, so none are compared."]
    names = list(dict.fromkeys(name for settings in known for name in settings if name != _ELSEWHERE))
    columns = []
    for name in names:
        cells = [_cell(run.settings, name) for run in runs]
        if len({cell and cell[0] for cell, run in zip(cells, runs, strict=True) if run.settings is not None}) > 1:
            columns.append(_Column(name, cells))
    return columns, [] if columns else ["The configurations do not differ."]


def _cell(settings: Mapping[str, Any] | None, name: str) -> tuple[str, Any] | None:
    if settings is None or name not in settings:
        return None
    value = settings[name]
    return (value if isinstance(value, str) else json.dumps(value, default=str)), value


def _metrics(runs: Sequence[_Run]) -> list[_Column]:
    columns = [_Column("epochs", [(str(count), count) for count in map(_epochs, runs)])]
    names = list(dict.fromkeys(name for run in runs for name in _whole(run)))
    for name in sorted(names, key=lambda name: (not name.endswith("accuracy"), not name.startswith("test/"), name)):
        best = name.startswith("val/") and name.endswith("accuracy")
        cells: list[tuple[str, Any] | None] = []
        for run in runs:
            points = run.history.get(name)
            if not points:
                cells.append(None)
                continue
            numbers = [point for point in points if not math.isnan(point[1])]
            epoch, value = max(numbers, key=lambda point: point[1]) if best and numbers else points[-1]
            text = f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4g}"
            cells.append((f"{text} (epoch {epoch})" if best and len(points) > 1 else text, value))
        columns.append(_Column(f"{name}, best" if best else name, cells, name.endswith("accuracy")))
    return columns


def _epochs(run: _Run) -> int:
    """Return how many epochs the run has begun; a test after them counts as a later one in its table."""
    return max((points[-1][0] for name, points in run.history.items() if not name.startswith("test/")), default=0)


def _table(runs: Sequence[_Run], columns: Sequence[_Column], samples: Sequence[str]) -> str:
    heads = [_Column("run", [(run.name, run.name) for run in runs]), *columns]
    row = "".join(
        f'<th data-kind="{"number" if column.numeric else "text"}">'
        f'<button type="button">{_breakable(column.title)}</button></th>'
        for column in heads
    )
    lines = [f"<thead><tr>{row}</tr></thead><tbody>"]
    for i in range(len(runs)):
        cells = []
        for column in heads:
            text, value = column.cells[i] or ("-", "")
            values = [cell[1] for cell in column.cells if cell]
            best = column.compared and len(values) > 1 and value == max(values)
            kind = " ".join(["number"] * column.numeric + ["best"] * best)
            sample = samples[i] if column is heads[0] else ""
            key = "" if column.cells[i] is None else _number(value) if column.numeric else text
            cells.append(
                f'<td class="{kind}" data-name="{html.escape(column.title)}" data-value="{html.escape(key)}">'
                f"{sample}<span>{html.escape(text) if column.numeric else _breakable(text)}</span></td>"
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div><table class="runs">{"".join(lines)}</tbody></table></div>'


def _number(value: Any) -> str:
    """Return a number as JavaScript reads it; empty if it is none."""
    return "" if math.isnan(value) else repr(value).replace("inf", "Infinity")


def _breakable(text: str) -> str:
    """Return HTML that may be broken after a dot, slash or underscore."""
    escaped = html.escape(text)
    for mark in "./_":
        escaped = escaped.replace(mark, f"{mark}<wbr>")
    return escaped


# -------------------------------------------------------------------- the page


def _page(runs: Sequence[_Run], columns: Sequence[_Column], notes: Sequence[str], format: str) -> str:
    samples = []
    for i in range(len(runs)):
        picture = pages.image(plots.encode(plots.run_sample(i), format), format, "", plot=True)
        samples.append(picture.replace('class="plot"', 'class="plot sample"'))
    names = (f"<li>{sample}{_breakable(run.name)}</li>" for sample, run in zip(samples, runs, strict=True))
    drawn = _figures(runs, format)
    return pages.page(
        f"{len(runs)} runs: intff_lightning",
        [
            f"<h1>{len(runs)} runs</h1>",
            f'<p class="about">intff_lightning {__version__}</p>',
            *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
            "<h2>Configurations and metrics</h2>",
            _table(runs, columns, samples),
            "<h2>Curves</h2>",
            f'<ul class="legend">{"".join(names)}</ul><main>{"".join(drawn)}</main>'
            if drawn
            else '<p class="note">No two runs have a metric over several epochs in common.</p>',
        ],
        _STYLE,
        _SCRIPT,
    )


def _figures(runs: Sequence[_Run], format: str) -> list[str]:
    """Return the figures of the metrics that at least two runs have, one of them in several epochs."""
    names = dict.fromkeys(name for run in runs for name in _whole(run) if not name.startswith("test/"))
    figures = []
    for name in [*(name for name in _TITLES if name in names), *sorted(set(names) - set(_TITLES))]:
        share = name.endswith("accuracy")
        lines = {
            i: [(epoch, 100 * value if share else value) for epoch, value in run.history[name]]
            for i, run in enumerate(runs)
            if name in run.history
        }
        if len(lines) < 2 or max(map(len, lines.values())) < 2:
            continue
        title = _TITLES.get(name, name)
        figure = plots.run_curves(title, "accuracy (%)" if share else name, lines)
        without = ", ".join(run.name for i, run in enumerate(runs) if i not in lines)
        text = f"{name} over the epochs{f'; missing: {without}' if without else ''}."
        figures.append(pages.figure(pages.image(plots.encode(figure, format), format, title), title, text))
    return figures
