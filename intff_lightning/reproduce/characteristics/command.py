"""``python -m intff_lightning.reproduce characteristics``: trains the networks, measures and compares them."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from intff_lightning.errors import ConfigurationError, IntFFError
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reproduce.characteristics.figure import draw_differences
from intff_lightning.reproduce.characteristics.intervals import BASELINE, compare
from intff_lightning.reproduce.characteristics.kept import code_of, keep, kept
from intff_lightning.reproduce.characteristics.networks import DATASETS, NETWORKS, NetworkRun
from intff_lightning.reproduce.characteristics.registry import CHARACTERISTICS, Characteristic
from intff_lightning.reproduce.characteristics.report import markdown, overview, sentences
from intff_lightning.reproduce.options import (
    Subcommand,
    add_common_arguments,
    add_seed_arguments,
    chosen_seeds,
    make_folder,
    results_folder,
    run_jobs,
)
from intff_lightning.reproduce.spaces import ALGORITHMS

DIFFERENCES = "differences"
"""Name of the files that hold what all characteristics show."""

_DESCRIPTION = (
    "Measure what networks trained by IntFF, FF and backpropagation are like, beside their accuracy,\n"
    "and compare them with backpropagation, paired by seed.\n\n"
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [each.name for each in CHARACTERISTICS]
    add_seed_arguments(parser, seeds=5)
    parser.add_argument("--only", choices=names, nargs="+", metavar="NAME", help="only these characteristics")
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS), help="default: both")
    parser.add_argument("--datasets", choices=DATASETS, nargs="+", default=list(DATASETS), help="default: both")
    parser.add_argument("--again", action="store_true", help="measure again what was measured; nothing is trained anew")
    add_common_arguments(parser)


def characteristics(arguments: argparse.Namespace, line: str) -> None:
    """Train and measure what is missing, and write one table per characteristic, all differences, and the figure."""
    seeds = chosen_seeds(arguments.seeds, arguments.only_seeds)
    chosen = [each for each in CHARACTERISTICS if arguments.only is None or each.name in arguments.only]
    plan = {each.name: list(_runs(each, arguments, seeds)) for each in chosen}
    if not any(plan.values()):
        raise ConfigurationError(f"--datasets {' '.join(arguments.datasets)}: {' '.join(plan)} has no such networks.")
    out = make_folder(results_folder(arguments), "characteristics")
    for each in chosen:
        if each.check is not None:
            each.check()
    for each in CHARACTERISTICS:
        _check_kind(out / f"{each.name}.json", arguments.quick)
    folder = out / "networks"
    names = {run: [name for name, runs in plan.items() if run in runs] for runs in plan.values() for run in runs}
    jobs = _jobs(names)
    work = [
        (job, [names[run] for run in job], arguments.data_dir, folder, arguments.again, f"[{n}/{len(jobs)}]")
        for n, job in enumerate(jobs, 1)
    ]
    for dataset in dict.fromkeys(name for each in chosen if plan[each.name] for name in each.reads(arguments.datasets)):
        DATASETS[dataset](arguments.data_dir).prepare_data()  # not in several processes at once
    failures = [line for lines in run_jobs(train_and_measure, work, arguments.jobs) for line in lines]
    if arguments.only_seeds is not None:
        print("no table is written; the same command without --only_seeds puts the runs together")
    else:
        paths = []
        for each in chosen:
            rows = compare(_measured(each, plan[each.name], folder))
            if rows:
                paths += _write(each, rows, out, line, arguments.quick)
        print("written: " + ", ".join(map(str, paths + _write_differences(out, line, arguments.quick))))
    if failures:
        raise IntFFError("networks failed, and tables leave out their seeds:\n" + "\n".join(failures))


SUBCOMMAND = Subcommand(
    "characteristics",
    "robustness, calibration and other characteristics, compared with backpropagation",
    _add_arguments,
    characteristics,
    _DESCRIPTION + "\n".join(f"{each.name}: {each.title}" for each in CHARACTERISTICS),
)


def _runs(characteristic: Characteristic, arguments: argparse.Namespace, seeds: Sequence[int]) -> Iterator[NetworkRun]:
    """Yield the networks of a characteristic: those of the chosen seeds, networks and data sets."""
    for seed in seeds:
        for dataset in characteristic.datasets:
            for network in NETWORKS:
                for algorithm in ALGORITHMS:
                    for training in characteristic.trainings:
                        if network in arguments.networks and dataset in arguments.datasets:
                            yield NetworkRun(algorithm, network, dataset, seed, training, arguments.quick)


def _jobs(runs: Iterable[NetworkRun]) -> list[list[NetworkRun]]:
    """Return networks that can be trained side by side; those of a sequence of tasks start with one another."""
    jobs: dict[Any, list[NetworkRun]] = {}
    for run in runs:
        place = run.algorithm, run.network, run.dataset, run.seed
        jobs.setdefault((*place, "tasks" if run.training.tasks else run.training), []).append(run)
    return list(jobs.values())


def train_and_measure(
    runs: Sequence[NetworkRun], names: Sequence[Sequence[str]], data_dir: str, folder: Path, again: bool, prefix: str
) -> list[str]:
    """Train networks that are not trained yet, and measure characteristics that are not measured yet.

    Args:
        runs: The networks, in an order in which they can be trained.
        names: Names of characteristics for each of them.
        data_dir: Folder of the data.
        folder: Folder of all networks. ``folder / run.name / NAME.json`` gets the rows of a characteristic.
        again: Measure again.
        prefix: Begins each printed line.

    Returns:
        Which network failed and why, one line, or nothing; the networks after it are left out.
    """
    for run, wanted in zip(runs, names, strict=True):
        try:
            _train_and_measure(run, wanted, data_dir, folder, again, prefix)
        except IntFFError as error:
            print(f"{prefix} {run.name} failed: {error}", flush=True)
            return [f"{run.name}: {error}"]
    return []


def _train_and_measure(
    run: NetworkRun, wanted: Sequence[str], data_dir: str, folder: Path, again: bool, prefix: str
) -> None:
    def say(text: str) -> None:
        print(f"{prefix} {run.name}: {text}", flush=True)

    run.train(data_dir, folder, say)
    missing = [each for each in CHARACTERISTICS if each.name in wanted and (again or _rows(run, each, folder) is None)]
    if not missing:
        return
    trained = run.trained(data_dir, folder)
    for each in missing:
        rows = each.measure(trained, data_dir, run.quick)
        keep(_place(run, each, folder), rows, code_of(each.measure))
    say(f"measured {', '.join(each.name for each in missing)}")


def _place(run: NetworkRun, characteristic: Characteristic, folder: Path) -> Path:
    return folder / run.name / "measured" / f"{characteristic.name}.json"


def _rows(run: NetworkRun, characteristic: Characteristic, folder: Path) -> list[dict[str, Any]] | None:
    return kept(_place(run, characteristic, folder), code_of(characteristic.measure))


def _measured(characteristic: Characteristic, runs: Sequence[NetworkRun], folder: Path) -> list[dict[str, Any]]:
    """Return what was measured of all networks of a characteristic, with its summary, as ``compare`` takes it.

    A seed with which a network failed is left out for all algorithms, because they are compared in pairs.
    """
    found: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    settings = {}
    every = {run: _rows(run, characteristic, folder) for run in runs}
    failed = {(run.network, run.dataset, run.seed) for run, rows in every.items() if rows is None}
    for run, rows in every.items():
        if (run.network, run.dataset, run.seed) not in failed:
            place = run.network, run.dataset, run.algorithm, run.seed
            found.setdefault(place, []).extend(rows or [])
            settings[place] = run.settings
    if characteristic.summary is not None:
        baselines = {place: found[(*place[:2], BASELINE, place[3])] for place in found}
        summaries = {place: characteristic.summary(rows, baselines[place]) for place, rows in found.items()}
        found = {place: [*rows, *summaries[place]] for place, rows in found.items()}
    names = ("network", "dataset", "algorithm", "seed")
    return [
        {**dict(zip(names, place, strict=True)), "settings": settings[place], **row}
        for place, rows in found.items()
        for row in rows
    ]


def _write(characteristic: Characteristic, rows: list[dict[str, Any]], out: Path, line: str, quick: bool) -> list[Path]:
    """Write a table: these rows, and those of an earlier call that are of other networks or data sets."""
    doubts = [] if characteristic.withhold is None else characteristic.withhold(rows)
    commands = {_of(row): line for row in rows}
    earlier = _read(out / f"{characteristic.name}.json")
    places = [f"{network} {dataset}" for dataset in DATASETS for network in NETWORKS]
    both = {
        "rows": sorted(
            [row for row in earlier.get("rows", []) if _of(row) not in commands] + rows,
            key=lambda row: places.index(_of(row)),
        ),
        "doubts": [each for each in earlier.get("doubts", []) if each["of"] not in commands] + doubts,
        "commands": {**earlier.get("commands", {}), **commands},
    }
    for row in rows:
        row["shown"] = characteristic.shown(row)
    found = {"characteristic": characteristic.name, **both, "quick": quick, "command": line, **about()}
    paths = write_results(characteristic.name, out, found, markdown(characteristic.title, found))
    if characteristic.draw is None:
        return paths
    png = out / f"{characteristic.name}.png"
    characteristic.draw(found["rows"], png)
    return [*paths, png]


def _of(row: dict[str, Any]) -> str:
    return f"{row['network']} {row['dataset']}"


def _write_differences(out: Path, line: str, quick: bool) -> list[Path]:
    """Write what all characteristics in the folder show: one table, sentences, and the figure."""
    found = differences({each.name: _read(out / f"{each.name}.json") for each in CHARACTERISTICS})
    written = {**found, "quick": quick, "command": line, **about()}
    png = out / f"{DIFFERENCES}.png"
    draw_differences(found["rows"], png)
    title = "Differences from backpropagation"
    return [*write_results(DIFFERENCES, out, written, markdown(title, written)), png]


def differences(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the compared rows that all tables show, and the sentences that are made of them.

    Args:
        tables: Contents of ``NAME.json`` by the name of the characteristic; empty ones are left out.

    Returns:
        ``rows``, ``overview`` (one sentence) and ``sentences`` (lines of Markdown by characteristic).
    """
    rows = [
        {"characteristic": name, **row}
        for name, table in tables.items()
        for row in table.get("rows", [])
        if row["shown"] and row["verdict"]
    ]
    lines = {name: [row for row in rows if row["characteristic"] == name] for name, table in tables.items() if table}
    return {
        "rows": rows,
        "overview": overview(rows),
        "sentences": {
            name: sentences(mine) + [each["line"] for each in tables[name].get("doubts", [])]
            for name, mine in lines.items()
        },
    }


def _check_kind(path: Path, quick: bool) -> None:
    """Keep a quick look from overwriting results, and the reverse."""
    if _read(path).get("quick", quick) is not quick:
        kind = "the results of a full run" if quick else "those of a quick look"
        raise ConfigurationError(f"{path} holds {kind}: name another folder, --out DIR.")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
