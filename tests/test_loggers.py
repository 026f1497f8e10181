"""Figures, tables and the confusion matrix arrive in the loggers that can show them."""

import csv
import io
import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock, call

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, TrainingFigures
from intff_lightning.cli import main
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.reporting.loggers import boards
from intff_lightning.reporting.tables import result_rows, unit_rows

DRAWN = ["accuracy", "accuracy_by_unit", "confusion_matrix", "goodness", "goodness_histograms", "input_pairs",
         "local_loss", "receptive_fields", "wrong_predictions"]  # fmt: skip


class _Run(NamedTuple):
    """A run with every logger that is installed: its folder, its last step, its tables and its counts."""

    folder: Path
    step: int
    loggers: dict[str, Any]
    results: list[list[str]]
    units: list[list[str]]
    counts: list[list[int]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch and a test. Each figure is a small picture of noise: quickly drawn, and like no other."""
    noise = np.random.default_rng(0)

    def draw(figure, path, **_):
        imsave(path, noise.random((4, 4, 3)), format="png")

    folder = tmp_path_factory.mktemp("loggers")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the loggers' own packages
        patch.chdir(folder)
        patch.setattr(Figure, "savefig", draw)
        patch.setenv("WANDB_SILENT", "true")
        loggers = {"tensorboard": TensorBoardLogger(".", version=0)}
        if find_spec("wandb"):
            loggers["wandb"] = WandbLogger(project="tests", offline=True)
        if find_spec("mlflow") and find_spec("sqlalchemy"):
            loggers["mlflow"] = MLFlowLogger(tracking_uri="sqlite:///mlflow.db", artifact_location="mlruns")
        accuracy = GoodnessAccuracy()
        trainer = L.Trainer(
            max_epochs=1, logger=list(loggers.values()), accelerator="cpu", enable_checkpointing=False,
            callbacks=[GoodnessLogger(), accuracy, TrainingFigures(folder="figures")], enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        module, data = IntFFModule([DenseUnit([20]), DenseUnit([10])]), DigitsDataModule(batch_size=64)
        trainer.fit(module, data)
        trainer.test(module, data, verbose=False)
        if "wandb" in loggers:
            loggers["wandb"].experiment.finish()
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == DRAWN
    tables = result_rows(trainer.callback_metrics, "test"), unit_rows(module)
    return _Run(folder, trainer.global_step, loggers, *tables, accuracy.confusion["test"].tolist())


def _same_picture(path, run, name):
    assert np.array_equal(imread(path)[..., :3], imread(run.folder / f"figures/{name}.png")[..., :3])


def _same(lines, expected):
    """Compare a table with its rows from the package, whose heads have line breaks, or nothing at all."""
    head, *rows = expected
    assert lines == [[title.replace("\n", " ") or "part" for title in head], *rows]


@pytest.mark.slow
def test_tensorboard(run):
    folder = run.folder / run.loggers["tensorboard"].log_dir
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert sorted(events.Tags()["images"]) == [f"figures/{name}" for name in DRAWN]

    def table(name):
        event = events.Tensors(f"tables/{name}/text_summary")[-1]
        assert event.step == run.step
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        return [head, *rows]

    _same(table("test"), run.results)
    _same(table("units"), run.units)
    assert [list(map(int, row[1:])) for row in table("confusion_matrix")[1:]] == run.counts


@pytest.mark.slow
def test_weights_and_biases_offline(run):
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    (media,) = run.folder.glob("wandb/offline-run-*/files/media")
    for name in DRAWN:
        (picture,) = [p for p in media.glob("images/figures/*.png") if re.fullmatch(rf"{name}_\d+_\w+\.png", p.name)]
        _same_picture(picture, run, name)

    def table(name):
        (path,) = media.glob(f"table/tables/{name}*.table.json")
        content = json.loads(path.read_text())
        return [content["columns"], *content["data"]]

    _same(table("test"), run.results)
    _same(table("units"), run.units)
    _, *rows = table("confusion_matrix")
    assert rows == [[str(i), str(k), count] for i, row in enumerate(run.counts) for k, count in enumerate(row)]


@pytest.mark.slow
def test_mlflow_in_a_local_folder(run):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("sqlalchemy", reason="MLflow's database needs SQLAlchemy")
    artifacts = run.folder / "mlruns" / run.loggers["mlflow"].run_id / "artifacts"
    pictures = list(artifacts.glob("images/*.png"))
    for name in DRAWN:
        (picture,) = [p for p in pictures if re.match(rf"figures.{name}.step.{run.step}.", p.name)]
        _same_picture(picture, run, name)

    def table(name):
        return list(csv.reader(io.StringIO((artifacts / f"tables/{name}.csv").read_text())))

    _same(table("test"), run.results)
    _same(table("units"), run.units)
    assert [list(map(int, row[1:])) for row in table("confusion_matrix")[1:]] == run.counts


class _Comet(CometLogger):
    """Stands for a logger that is connected to Comet's server, and keeps what it is sent."""

    def __init__(self):
        self.sent = Mock()

    experiment = property(lambda self: self.sent)


def test_comet():
    logger = _Comet()
    (board,) = boards([logger])
    board.show_figure("figures/a", "picture", 7)
    board.show_table("tables/a", [["x", "y"], ["1", "2"], ["3", "4"]], 7)
    board.show_confusion("tables/b", "title", torch.tensor([[5, 1], [0, 6]]), 7)
    assert logger.sent.mock_calls == [
        call.log_image("picture", name="figures/a", step=7),
        call.log_table("tables/a.csv", [["1", "2"], ["3", "4"]], ["x", "y"]),
        call.log_confusion_matrix(
            matrix=[[5, 1], [0, 6]], labels=["0", "1"], title="title", step=7, file_name="tables/b.json"
        ),
    ]


def test_other_loggers_are_left_alone():
    assert boards([CSVLogger(".")]) == []


class Elsewhere(DummyLogger):
    """A logger whose folder is that of all runs."""

    name, version, save_dir, root_dir = "elsewhere", 0, ".", "."


@pytest.mark.usefixtures("blank_figures")
def test_runs_of_other_loggers_have_a_folder_each():
    Path("config.yaml").write_text(f"trainer: {{max_epochs: 1, logger: {{class_path: {__name__}.Elsewhere}}}}\n# mine")
    mine = Path("config.yaml").read_text()
    for _ in range(2):
        assert main(["fit", "--config", "digits", "--config", "config.yaml", "--trainer.limit_train_batches", "3"]) == 0
    assert Path("config.yaml").read_text() == mine
    assert not Path("figures").exists()
    for version in ("version_0", "version_1"):
        folder = Path("lightning_logs") / version
        assert {"config.yaml", "metrics.csv", "figures", "checkpoints"} <= {path.name for path in folder.iterdir()}
