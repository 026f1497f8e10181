"""Tuning: equal spaces, validation data only, resumable searches, and shipped settings that won their studies."""

import dataclasses
import gzip
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image
from reference import layers_of
from torchvision import datasets

from intff_lightning import BackpropModule, IntFFModule
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce import procedures, tuning
from intff_lightning.reproduce.command import main
from intff_lightning.reproduce.configs import lean
from intff_lightning.reproduce.rows import rows_of
from intff_lightning.reproduce.spaces import ALGORITHMS, STUDIES, Choice, candidate_votes, make, space
from intff_lightning.reproduce.winners import WINNERS

EVERY = [(name, algorithm) for name in STUDIES for algorithm in ALGORITHMS]
UNTUNED = {(name, algorithm) for name, algorithm in EVERY if name in ("fashion_mnist_conv", "cifar10_conv")}
"""Searches that are not committed, so that nothing is compared with them."""


def _start(study, algorithm):
    return {name: values.start for name, values in space(study, algorithm).items()}


def _built(module, shape):
    module.hparams.update(input_shape=list(shape), num_classes=10)
    module.configure_model()
    return module


@pytest.fixture
def closed_test_data(tiny_mnist, tmp_path):
    """MNIST and CIFAR-10 in folders, whose test files are garbage."""
    tiny_mnist = shutil.copytree(tiny_mnist, tmp_path / "sets")
    for path in tiny_mnist.rglob("t10k-*"):
        path.write_bytes(b"closed")
    for part in ("train", "test"):
        for k in range(2):
            for name in "ab":
                path = tiny_mnist / "cifar10" / part / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (9 * k, 5, 80)).save(path) if part == "train" else path.write_bytes(b"")
    return tiny_mnist


# -------------------------------------------------------------------- spaces


@pytest.mark.parametrize("name", STUDIES)
def test_algorithms_have_the_same_ranges_where_they_share_a_setting(name):
    found = {algorithm: space(STUDIES[name], algorithm) for algorithm in ALGORITHMS}
    shared = {"learning_rate", "weight_decay", "batch_size", "warmup", "activation", "normalization", "augmentation"}
    for setting in {setting for own in found.values() for setting in own}:
        ranges = [own[setting] for own in found.values() if setting in own]
        assert all(values == ranges[0] for values in ranges)
        assert len(ranges) == 4 or setting not in shared


@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_every_choice_makes_a_network_with_the_same_layers(name, algorithm):
    study = STUDIES[name]
    start = _start(study, algorithm)
    shape, classes = ((3, 32, 32) if "cifar" in name else (1, 28, 28)), 10
    for setting, values in space(study, algorithm).items():
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            module, data = make(study, algorithm, {**start, setting: value}, "data", seed=0)
            assert isinstance(module, BackpropModule if algorithm == "bp" else IntFFModule)
            assert data.batch_size == (value if setting == "batch_size" else start["batch_size"])
            if setting in ("goodness", "normalization"):
                assert _built(module, shape)(torch.rand(2, *shape)).shape == (2, classes)
    _built(module, shape)
    layers = layers_of(module, torch.nn.Linear, torch.nn.Conv2d)
    widths = [width for unit in study.units for width in unit]
    assert [layer.weight.shape[0] for layer in layers] == widths + ([10] if algorithm == "bp" else [])


def test_votes_are_the_last_units_and_each_alone():
    assert candidate_votes(3) == [[0, 1, 2], [1, 2], [2], [0], [1]]
    assert candidate_votes(1) == [[0]]


# -------------------------------------------------------------------- the command


def _tune(data, *options, name="dense_clean"):
    return main(["tune", name, "--data_dir", str(data), "--quick", "--out", "out", *options])


def _trials(name="dense_clean"):
    return json.loads(Path(f"out/tuning/{name}.json").read_text())["trials"]


@pytest.mark.slow
def test_a_search_leaves_the_test_data_closed_and_resumes(closed_test_data, blank_figures, capsys, monkeypatch):
    both = ["--algorithms", "channels", "bp"]
    assert _tune(closed_test_data, "--trials", "4", *both) == 0
    whole = _trials()
    assert [(row["algorithm"], row["trial"]) for row in whole] == [(a, n) for a in ("channels", "bp") for n in range(4)]
    for algorithm in ("channels", "bp"):
        mine = [row for row in whole if row["algorithm"] == algorithm]
        assert mine[0]["settings"] == _start(STUDIES["dense_clean"], algorithm)
        assert len({json.dumps(row["settings"]) for row in mine}) == 4
        best = [row["best_so_far"] for row in mine]
        assert best == sorted(best)
        assert best[-1] == max(row["validation_accuracy"] for row in mine if row["state"] == "complete") > 0
    text = Path("out/tuning/dense_clean.md").read_text()
    assert "label smoothing 0 to 0.2" in text
    assert Path("out/tuning/dense_clean.png").is_file()

    # the same search in three pieces, of which one is cut off in the middle of a trial
    Path("out").rename("whole")
    assert _tune(closed_test_data, "--trials", "1", *both) == 0
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "make", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert _tune(closed_test_data, "--trials", "4", *both) == 130
    assert _tune(closed_test_data, "--trials", "4", *both) == 0

    def without_seconds(rows):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    assert without_seconds(_trials()) == without_seconds(whole)
    assert _tune(closed_test_data, "--trials", "2", *both) == 0  # has them already
    assert len(_trials()) == 8
    capsys.readouterr()


def test_packed_files_are_unpacked(closed_test_data, blank_figures, monkeypatch):
    raw = closed_test_data / "MNIST" / "raw"
    sums = []
    for path in list(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        path.with_suffix(".gz").write_bytes(packed)
        path.unlink()
        sums.append((f"{path.name}.gz", hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    assert _tune(closed_test_data, "--trials", "1", "--algorithms", "bp") == 0


def test_cifar10_in_folders(closed_test_data, blank_figures):
    assert _tune(closed_test_data, "--trials", "1", "--algorithms", "channels", name="cifar10_conv") == 0
    (row,) = _trials("cifar10_conv")
    assert row["state"] == "complete"


def test_a_pruned_trial_keeps_what_it_had_reached(closed_test_data, blank_figures, monkeypatch):
    monkeypatch.setattr(tuning.Trial, "should_prune", lambda trial: trial.number == 1)
    assert _tune(closed_test_data, "--trials", "3", "--algorithms", "bp") == 0
    rows = _trials()
    assert [row["state"] for row in rows] == ["complete", "pruned", "complete"]
    assert rows[1]["validation_accuracy"] > 0
    assert rows[1]["best_so_far"] == rows[0]["validation_accuracy"]


def test_a_diverged_trial_counts_as_nothing(closed_test_data, blank_figures, monkeypatch):
    made = tuning.make

    def broken(*arguments, **options):
        module, data = made(*arguments, **options)
        torch.nn.init.constant_(next(iter(_built(module, (1, 28, 28)).parameters())), torch.nan)
        return module, data

    monkeypatch.setattr(tuning, "make", broken)
    assert _tune(closed_test_data, "--trials", "1", "--algorithms", "bp") == 0
    assert [(row["state"], row["validation_accuracy"]) for row in _trials()] == [("complete", 0.0)]


def test_a_search_of_another_plan_is_not_continued(closed_test_data, blank_figures, capsys, monkeypatch):
    options = ["--trials", "1", "--algorithms", "bp"]
    assert _tune(closed_test_data, *options) == 0
    changes = {"units": ((20,), (20,)), "epochs": 3, "images": 5000, "augmentations": ("none",)}
    for field, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setitem(STUDIES, "dense_clean", dataclasses.replace(STUDIES["dense_clean"], **{field: value}))
            assert _tune(closed_test_data, *options) == 1
        message = "dense_clean_bp.journal holds trials of another network, budget or ranges: delete it"
        assert message in capsys.readouterr().err
    assert _tune(closed_test_data, *options) == 0


def test_a_search_survives_a_kill_before_its_first_setting(closed_test_data, blank_figures, tmp_path):
    study = tuning.open_search(tmp_path, "dense_clean", "bp")
    study.ask()  # and killed
    tuning.requeue(tuning.open_search(tmp_path, "dense_clean", "bp"))
    again = tuning.open_search(tmp_path, "dense_clean", "bp").ask()
    assert tuning.suggest(again, "dense_clean", "bp") == _start(STUDIES["dense_clean"], "bp")

    Path("out/tuning").mkdir(parents=True)
    Path("out/tuning/dense_clean_bp.journal").touch()
    assert _tune(closed_test_data, "--trials", "1", "--algorithms", "bp") == 0


def test_mistakes_end_in_a_line(closed_test_data, blank_figures, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        _tune(closed_test_data, "--trials", "0")
    assert "--trials: 0 is no number from 1 on" in capsys.readouterr().err
    assert _tune(closed_test_data, "--trials", "1", "--algorithms", "bp") == 0
    assert main(["tune", "dense_clean", "--data_dir", "nowhere", "--out", "out", "--algorithms", "bp"]) == 1
    assert "holds quick trials" in capsys.readouterr().err
    assert main(["tune", "cifar10_conv", "--data_dir", "nowhere", "--out", "new", "--trials", "1"]) == 1
    assert "images in train/CLASS/ are needed" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "intff_lightning.reproduce.tuning")
    assert _tune(closed_test_data, "--trials", "1") == 1
    assert 'pip install "intff-lightning[tune]"' in capsys.readouterr().err


# test_reproduce.py has processes that are started as ever
FORKING = """
import multiprocessing, sys
from intff_lightning.reproduce.command import main
forking = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda _: forking
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_several_processes_share_a_search(closed_test_data, forks):
    Path("tune.py").write_text(FORKING)
    options = ["--trials", "3", "--jobs", "2", "--algorithms", "bp", "--data_dir", closed_test_data]
    group = forks.start(Path("tune.py").absolute(), "tune", "dense_clean", "--quick", "--out", "out", *options, count=1)
    assert group.wait() == [0], group.output
    assert [row["trial"] for row in _trials()] == list(range(3))


# -------------------------------------------------------------------- what is shipped


def _committed(name, algorithm):
    path = ROOT / "results/tuning" / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {"winners": {}}
    return found["winners"].get(algorithm)


@pytest.mark.parametrize(("name", "algorithm"), EVERY)
def test_shipped_settings_won_their_studies(name, algorithm):
    won = _committed(name, algorithm)
    assert ((name, algorithm) in UNTUNED) == (won is None)
    assert WINNERS.get((name, algorithm)) == won
    if won is None:
        return
    trials = json.loads((ROOT / "results/tuning" / f"{name}.json").read_text())["trials"]
    counts = {a: sum(row["algorithm"] == a for row in trials) for a in {row["algorithm"] for row in trials}}
    assert len(set(counts.values())) == 1
    best = tuning.winner(trials, algorithm)
    assert f"{best['validation_accuracy']:.2f} %" in (ROOT / "docs" / "reproducing.md").read_text()
    assert (won["settings"], won["vote"]) == (best["settings"], best["vote"])
    if STUDIES[name].conv and algorithm in ("channels", "bp"):
        module, _ = make(STUDIES[name], algorithm, won["settings"], "data", vote=won["vote"])
        shipped = _config(name if algorithm == "channels" else f"{name}_bp")["model"]
        assert _plain(shipped) == _plain(lean(to_recipe(module)))


def _config(name):
    return yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.conv])
def test_the_baseline_of_a_config_has_its_network_and_data(name):
    ours, theirs = _config(name), _config(f"{name}_bp")
    assert ours["model"]["init_args"]["units"] == theirs["model"]["init_args"]["body"]["init_args"]["units"]
    assert ours["trainer"] == theirs["trainer"]
    (kind, options), (other, others) = ((c["data"]["class_path"], c["data"]["init_args"]) for c in (ours, theirs))
    assert (kind, options["augmentation"]) == (other, others["augmentation"])


def _plain(recipe):
    """Return a recipe with short class names, as configs may write them."""
    return json.loads(re.sub(r'"class_path": "[\w.]*\.(\w+)"', r'"class_path": "\1"', json.dumps(recipe)))


def test_a_row_takes_the_winner_of_its_study(monkeypatch):
    start = _start(STUDIES["dense_mixture"], "channels")
    won = {"settings": {**start, "batch_size": 64, "goodness": "head"}, "vote": [1]}
    monkeypatch.setattr(procedures, "WINNERS", {("dense_mixture", "channels"): won})
    intff, ff, bp, three = rows_of("table2")
    made = procedures.make_procedure(intff, "channels", 0, "data")
    assert (made.data.batch_size, made.module.vote, made.epochs) == (64, [1], 20)
    assert made.data.corruption.rate == 0.75
    for row, name in ((intff, "tuned"), (ff, "channels"), (ff, "tuned"), (bp, "tuned"), (three, "channels")):
        assert procedures.make_procedure(row, name, 0, "data").data.batch_size == 128
    others = [row for table in ("table1", "robustness", "ablation") for row in rows_of(table)]
    assert {procedures.study_of(row) for row in others} == {""}


@pytest.mark.parametrize("path", sorted((ROOT / "results/tuning").glob("*.json")), ids=lambda path: path.stem)
def test_committed_studies_are_what_their_writer_gives(path):
    assert path.with_suffix(".md").read_text() == tuning.markdown(json.loads(path.read_text()))
