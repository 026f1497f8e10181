"""The packaged configs: their notes, their list, and where they are found."""

import json
import statistics
from pathlib import Path

import pytest
from conftest import ROOT

from intff_lightning.cli import main
from intff_lightning.cli.configs import CONFIGS, Notes, config_names, find_config, read_notes
from intff_lightning.errors import ConfigurationError

RESULTS = ROOT / "results/benchmarks"


@pytest.mark.parametrize("name", config_names())
def test_the_notes_of_a_config_hold_its_measured_figures(name):
    notes = read_notes(CONFIGS / f"{name}.yaml")
    assert notes.description.endswith(".")
    measured = RESULTS / f"accuracy_{name}.json"
    if "/" in name:  # tests/test_reproduce.py writes them again
        return
    if not measured.is_file():
        assert (notes.accuracy, notes.minutes) == ("", "")
        return
    result = json.loads(measured.read_text())
    seeds, threads = len(result["rows"]), int(result["machine"].split()[-2])
    accuracy = statistics.fmean(row["test accuracy %"] for row in result["rows"])
    assert notes.accuracy == f"{accuracy:.2f} % ({seeds} seed{'s' if seeds > 1 else ''})"
    minutes, cores = notes.minutes.split(" ", 1)
    assert abs(float(minutes) - statistics.fmean(row["training s"] for row in result["rows"]) / 60) <= 0.051
    assert cores == f"({threads} core{'s' if threads > 1 else ''})"


def test_notes_are_read_as_they_are_written(tmp_path):
    notes = Notes("One thing, and another.", "98.76 % (2 seeds)", "1.5 (1 core)", "python -m something")
    path = tmp_path / "some.yaml"
    path.write_text(notes.head() + "seed_everything: 0\n# accuracy: of something else\n")
    assert read_notes(path) == notes
    path.write_text("# A description\n# of two lines.\ntrainer: {}\n")
    assert read_notes(path) == Notes("A description of two lines.")


def test_the_list_has_every_config_on_one_line(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in config_names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        notes = read_notes(CONFIGS / f"{name}.yaml")
        assert notes.description.split()[0] in line
        assert notes.accuracy.partition(" ")[0] in line
        assert notes.minutes in line  # with the number of cores
    for option in ("--help", "-h"):
        assert main(["configs", option]) == 0
        assert capsys.readouterr().out.startswith("usage: intff configs\n")
    assert main(["configs", "--all"]) == 2
    assert "there is no option --all" in capsys.readouterr().err


def test_a_name_or_a_file_is_found():
    assert find_config("digits") == find_config("digits.yaml") == CONFIGS / "digits.yaml"
    Path("digits").write_text("mine")
    assert find_config("digits") == Path("digits")
    with pytest.raises(ConfigurationError, match=r"mnist is one.\n`intff configs` lists them all."):
        find_config("mnits")
