"""The frame of the tasks: every measurement is kept, and the tables are those of the kept rows."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from intff_lightning.errors import ConfigurationError
from intff_lightning.reproduce.command import main
from intff_lightning.reproduce.tasks import command, regression, tables
from intff_lightning.reproduce.tasks.task import Task, markdown, measurements, summarize

ROOT = Path(__file__).parents[1]
SCORES = {"intff": [0.9, 0.8, 0.95], "bp": [0.85, 0.8, 0.8], "trees": [0.5, 0.6, 0.7]}
CALLS: list = []


def _rows(seed, data_dir, quick):
    CALLS.append((seed, data_dir, quick))
    rows = [
        {"what": what, "algorithm": name, "measure": "accuracy", "value": values[seed] + shift, "better": "higher"}
        for what, shift in (("one", 0.0), ("other", 0.05))
        for name, values in SCORES.items()
    ]
    return [*rows, {**rows[0], "what": "small", "value": -9.0, "averaged": False}]


TASK = Task("some", "Some task", "What it is.", {"a": _rows}, average=True)


def test_a_table_is_that_of_its_rows():
    lines = summarize(TASK, [_rows(seed, "", False) for seed in range(3)], False, "python -m this")
    by_name = {(line["what"], line["algorithm"]): line for line in lines}
    assert len(lines) == 10  # two things and their mean, three algorithms; and one row that is no part of the mean
    line = by_name["one", "intff"]
    assert line["mean"] == pytest.approx(statistics.fmean(SCORES["intff"]))
    assert line["std"] == pytest.approx(statistics.stdev(SCORES["intff"]))
    paired = ttest_rel(SCORES["intff"], SCORES["bp"]).confidence_interval(0.95)
    assert line["interval"] == pytest.approx([paired.low, paired.high])
    assert line["difference"] == pytest.approx(0.2 / 3)
    assert by_name["one", "bp"]["interval"] is None
    assert by_name["small", "intff"]["interval"] is None  # there is nothing to compare it with
    assert by_name["mean of 2", "intff"]["mean"] == pytest.approx(statistics.fmean(SCORES["intff"]) + 0.025)
    text = markdown(TASK, lines)
    assert "| one | accuracy | 0.8833 ± 0.076 | 0.8167 ± 0.029 | 0.6000 ± 0.10 |" in text
    assert "| one | accuracy | +0.0667 (" in text


def test_measurements_are_kept_and_not_repeated():
    CALLS.clear()
    work = measurements([TASK], range(2), quick=False)
    folder = Path("runs")
    first = [each.rows("data", folder) for each in work]
    assert CALLS == [(0, "data", False), (1, "data", False)]
    assert [each.rows("data", folder) for each in work] == first
    assert len(CALLS) == 2
    assert measurements([TASK], [0], quick=True)[0].rows("data", folder) != []
    assert CALLS[2:] == [(0, "data", True)]  # a quick look is no full run


def test_the_command_writes_tables_and_keeps_quick_looks_apart(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_task", lambda name: TASK)
    arguments = ["tasks", "--only", "tables", "--seeds", "3", "--out", "results", "--data_dir", "data"]
    assert main(arguments) == 0, capsys.readouterr().err
    lines = json.loads(Path("results/tasks/some.json").read_text())
    assert {line["command"] for line in lines} == {"python -m intff_lightning.reproduce " + " ".join(arguments)}
    assert Path("results/tasks/some.md").read_text() in capsys.readouterr().out
    assert main([*arguments, "--quick"]) == 1
    assert "holds the results of a full run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments[:3], "--seeds", "0"])
    assert "--seeds: 0 is no number from 1 on" in capsys.readouterr().err


def test_other_settings_are_measured_again_and_libraries_are_checked_first(monkeypatch, capsys):
    CALLS.clear()
    for _ in range(2):
        for lr in (0.1, 0.2):
            changed = replace(TASK, settings={"lr": [lr]})
            measurements([changed], [0], quick=False)[0].rows("data", Path("runs"))
    assert len(CALLS) == 4

    def check():
        raise ConfigurationError("a library is missing")

    monkeypatch.setattr(command, "find_task", lambda name: replace(TASK, check=check))
    assert main(["tasks", "--only", "tables", "--out", "results"]) == 1
    assert "a library is missing" in capsys.readouterr().err
    assert len(CALLS) == 4


@pytest.mark.parametrize("name", command.TASKS)
def test_committed_tables_are_what_their_writer_gives(name):
    path = ROOT / "results/tasks" / f"{name}.json"
    if path.is_file():
        assert path.with_suffix(".md").read_text() == markdown(command.find_task(name), json.loads(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "case"), [(tables, "wine"), (regression, "linnerud_waist")])
def test_a_case_measures_every_algorithm(task, case):
    rows = task.TASK.cases[case](0, "", True)
    measures = {(row["algorithm"], row["measure"]) for row in rows}
    others = {"gradient boosting", "logistic regression" if task is tables else "ridge regression"}
    assert {name for name, _ in measures} == {"intff", "bp", *others} | ({"channels"} if task is tables else set())
    assert len(measures) == len(rows) == (5 if task is tables else 12)
    assert all(isinstance(row["value"], float) for row in rows)
