"""The report of a run, from its log folder alone: ended, still going, or with parts of it missing."""

import base64
import csv
import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import lightning as L
import pytest
import torch
from browser import look, needs_browser
from conftest import ROOT
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from intff_lightning import IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.cli import main as fit
from intff_lightning.report import main
from intff_lightning.reporting.runs import read_metrics

DIGITS = ["fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Log folder of a fit of two epochs and its test."""
    root = tmp_path_factory.mktemp("run")
    assert fit([*DIGITS, "--trainer.default_root_dir", str(root)]) == 0
    return root / "lightning_logs/version_0"


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of it, without its figures."""
    folder = tmp_path / "lightning_logs/version_0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "figures")
    return folder


def _page(folder):
    """Text of the page, which must need no other file, and its pictures by title."""
    page = (folder / "report.html").read_text()
    for link in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert link.startswith("data:")
    pictures = dict(re.findall(r'<img alt="([^"]*)" src="data:image/[^;]*;base64,([^"]*)"', page))
    return page, {title: base64.b64decode(data) for title, data in pictures.items()}


@pytest.fixture(scope="module")
def reported(finished, tmp_path_factory):
    """A copy of the run with its report, and what the command printed."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "lightning_logs/version_0"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "figures")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        patch.chdir(root)
        assert main([str(folder)]) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_a_finished_run(reported):
    run_folder, out, err = reported
    assert err == ""
    assert "report      lightning_logs/version_0/report.html" in out
    page, pictures = _page(run_folder)
    assert list(pictures) == [
        "Local loss", "Accuracy over epochs", "Goodness over epochs", "Goodness of each unit", "Accuracy by unit",
        "Confusion", "Wrong predictions", "Receptive fields", "Inputs",
    ]  # fmt: skip
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())
    assert pictures["Confusion"] == (run_folder / "figures/confusion_matrix.png").read_bytes()
    with (run_folder / "metrics.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["test/accuracy"]][-1]
    for name in ("test/accuracy", "test/accuracy/unit_1", "test/probe_accuracy", "val/accuracy"):
        value = tested[name] or read_metrics(run_folder / "metrics.csv")[name][-1][1]
        assert f"<td>{100 * float(value):.2f} %</td>" in page
    assert "max_epochs: 2" in page  # the configuration
    assert "dense 100-200-200-200 ReLU" in page
    assert not list(run_folder.glob("**/.*"))  # half-written files


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1300, False), (400, True)])
def test_in_a_browser_nothing_is_cut_off(reported, width, dark, tmp_path):
    page = Path(shutil.copy(reported[0] / "report.html", tmp_path))
    opened = "document.querySelector('details').open = true; [...document.images].map(one => one.naturalWidth > 0)"
    seen = look(page, width, dark, opened)
    assert seen["wide"] == []
    assert seen["result"] == [True] * 9
    assert seen["back"] == ("rgb(26, 26, 26)" if dark else "rgb(255, 255, 255)")


@pytest.mark.slow
def test_the_newest_run_of_a_folder_is_taken_and_pictures_may_be_vectors(run_folder, capsys):
    older = run_folder.with_name("version_7")
    older.mkdir()
    (older / "metrics.csv").write_text("epoch,step,train/loss\n0,1,0.5\n")
    os.utime(older / "metrics.csv", (1, 1))  # its folder is the newer one, as after a report on it
    tested = run_folder.with_name("version_8")  # by `test`, after the training
    tested.mkdir()
    (tested / "metrics.csv").write_text("epoch,step,test/accuracy\n0,1,0.5\n")
    assert main([str(run_folder.parent.parent), "--format", "svg"]) == 0
    assert "version_0/report.html" in capsys.readouterr().out
    _, pictures = _page(run_folder)
    assert b"<svg" in pictures["Local loss"]
    assert not (older / "report.html").exists()


@pytest.mark.slow
def test_a_run_that_goes_on_is_shown_by_its_last_weights_on_validation_data(run_folder, blank_figures, capsys):
    rows = (run_folder / "metrics.csv").read_text().splitlines()
    (run_folder / "metrics.csv").write_text("\n".join([*rows[:3], rows[3][: len(rows[3]) // 2]]))  # in mid-line
    (run_folder / "checkpoints/best.ckpt").unlink()
    names = rows[0].split(",")
    assert main([str(run_folder)]) == 0
    page, pictures = _page(run_folder)
    assert "last.ckpt" in page
    tested = any(row.split(",")[names.index("test/accuracy")] for row in rows[1:4])
    assert tested or "<h2>Test</h2>" not in page
    assert "<h2>Validation</h2>" in page
    assert "Wrong predictions" in pictures


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["test", "val"])
def test_metrics_of_other_weights_are_not_mixed(stage, run_folder, blank_figures):
    table = run_folder / "metrics.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["val/probe_accuracy"] = "0.1234"  # of the last epoch, which is not the checkpoint's
        row["test/accuracy"] = row["test/accuracy"] and "0.4321"  # as another precision may give
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert main([str(run_folder), "--stage", stage]) == 0
    page, _ = _page(run_folder)
    validation = page.partition("<h2>Validation")[2].partition("<h2>")[0]
    assert ("12.34 %" in validation) is (stage == "test")  # there it is that of the last epoch, and says so
    assert ("Validation of the last epoch" in page) is (stage == "test")
    assert "43.21 %" in page.partition("<h2>Test</h2>")[2].partition("<h2>")[0]


@pytest.mark.slow
def test_without_a_checkpoint_the_curves_are_drawn(run_folder, blank_figures, capsys):
    shutil.rmtree(run_folder / "checkpoints")
    assert main([str(run_folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == "there is no checkpoint in the folder: only the curves are drawn\n"
    page, pictures = _page(run_folder)
    assert list(pictures) == ["Local loss", "Accuracy over epochs", "Goodness over epochs"]
    assert "only the curves" in page


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_without_its_data_the_curves_are_drawn_and_the_page_says_why(tiny_mnist, tmp_path, capsys):
    options = ["--config", str(ROOT / "configs/mnist_plain.yaml"), "--trainer.max_epochs", "1", "--data.val_size", "50"]
    data = tmp_path / "moved"
    shutil.copytree(tiny_mnist, data)
    assert fit(["fit", *options, "--data.data_dir", str(data)]) == 0
    shutil.rmtree("lightning_logs/version_0/figures")
    data.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["lightning_logs"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("the checkpoint was not evaluated: ")
    assert "--data_dir" in printed.err
    assert list(_page(Path("lightning_logs/version_0"))[1])[-1] == "Goodness over epochs"
    assert main(["lightning_logs", "--data_dir", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().err == ""
    assert "Confusion" in _page(Path("lightning_logs/version_0"))[1]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["mnist_unsupervised", "mnist_conv"])
@pytest.mark.usefixtures("blank_figures")
def test_other_networks(config, tiny_mnist, capsys):
    options = ["--config", str(ROOT / f"configs/{config}.yaml"), "--data.data_dir", str(tiny_mnist)]
    small = ["--trainer.max_epochs", "1", "--data.val_size", "100", "--test_after_fit", "false"]
    assert fit(["fit", *options, *small]) == 0
    assert main(["lightning_logs", "--stage", "val"]) == 0
    assert capsys.readouterr().err == ""
    _, pictures = _page(Path("lightning_logs/version_0"))
    assert "Goodness of each unit" in pictures
    assert "Receptive fields" in pictures
    assert ("Confusion" in pictures) is (config == "mnist_conv")


def test_a_run_from_python_with_lightnings_own_checkpoint(digits):
    module = IntFFModule([torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 9), torch.nn.ReLU())])
    trainer = L.Trainer(
        max_epochs=1, logger=CSVLogger("."), callbacks=[GoodnessAccuracy(), ModelCheckpoint()], accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, digits())
    assert main([trainer.log_dir]) == 0
    page, pictures = _page(Path(trainer.log_dir))  # a body of the user's own has no recipe
    assert "the checkpoint was not evaluated" in page
    assert "Accuracy over epochs" in pictures


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda: None, "there is no folder nowhere"),
        (lambda: Path("nowhere").mkdir(), "no log folder of a run"),
        (lambda: (Path("nowhere").mkdir(), Path("nowhere/metrics.csv").write_text("a,b\n1,x\n")), "no metrics.csv of"),
        (lambda: (Path("nowhere").mkdir(), Path("nowhere/metrics.csv").write_text("")), "has no metrics.csv"),
    ],
    ids=["missing", "empty", "another table", "empty table"],
)
def test_wrong_folders_are_named_in_a_line_or_two(prepare, message, capsys):
    prepare()
    assert main(["nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1 if message.startswith("has") else 0].startswith("error: ")
    assert message in error
    assert len(error.splitlines()) <= 3


@pytest.mark.slow
def test_damaged_checkpoint(run_folder, blank_figures, capsys):
    for path in (run_folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert main([str(run_folder)]) == 0
    assert "the checkpoint was not evaluated" in capsys.readouterr().err
