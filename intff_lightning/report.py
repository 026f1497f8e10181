"""``intff report RUN``: every figure of a run, and a page of them; of several runs, a page that compares them."""

import argparse
import html
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from intff_lightning._version import __version__
from intff_lightning.callbacks import GoodnessLogger, TrainingFigures, metrics_of
from intff_lightning.checkpoints import read_checkpoint
from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import CheckpointError, ConfigurationError, explain
from intff_lightning.files import atomic_write
from intff_lightning.lightning_compat import quiet
from intff_lightning.recipe import from_recipe
from intff_lightning.reporting import pages, plots
from intff_lightning.reporting.comparison import write_comparison
from intff_lightning.reporting.runs import History, config_file, read_metrics, run_folder
from intff_lightning.reporting.tables import result_rows, unit_rows

_HELP = """Draw every figure of a run into RUN/figures, and one self-contained page of them, RUN/report.html.
With several runs, write one page that compares them: their curves, and a table of what differs in their configurations.

RUN is the log folder of a run, finished or not (lightning_logs/version_0), or a folder of several runs, of which the
newest is taken. Curves come from its metrics.csv. Histograms, confusion, receptive fields and wrong predictions come
from its best checkpoint (else the last) and the data that the checkpoint names.

`intff report` and `python -m intff_lightning.report` are the same."""

Format = Literal["png", "svg"]

_CAPTIONS = {
    "local_loss": ("Local loss", "Mean local loss of each unit over the epochs."),
    "loss": ("Loss", "Training and validation loss over the epochs."),
    "accuracy": ("Accuracy over epochs", "Validation accuracy of each unit alone, and of the vote."),
    "r2": ("R² over epochs", "R² of validation data, of each unit alone and of the vote."),
    "goodness": ("Goodness over epochs", "Mean goodness of positive and negative training data."),
    "goodness_histograms": (
        "Goodness of each unit",
        "Distribution over positive and negative data; the dashed line is the threshold of the loss.",
    ),
    "accuracy_by_unit": ("Accuracy by unit", "Each unit alone, and the vote."),
    "confusion_matrix": ("Confusion", "Rows are true classes, columns are predictions."),
    "wrong_predictions": ("Wrong predictions", "The surest mistakes, each with the score of every label."),
    "receptive_fields": ("Receptive fields", "Weights of the first layer; grey is zero, white is positive."),
    "input_pairs": ("Inputs", "Positive and negative data as the first unit sees them."),
}
_PHOTOGRAPHS = ("wrong_predictions", "receptive_fields", "input_pairs")


@dataclass
class _Run:
    """What the page of a run shows."""

    folder: Path
    format: Format
    stage: str
    history: History
    metrics: dict[str, float]
    checkpoint: Path | None
    vote: list[int] = field(default_factory=list)
    units: list[list[str]] = field(default_factory=list)
    note: str = ""


def write_report(folder: Path, stage: str | None = None, data_dir: str | None = None, format: Format = "png") -> Path:
    """Draw the figures of a run and write its page.

    Args:
        folder: Log folder of the run.
        stage: Data to evaluate on, ``val`` or ``test``; ``None`` is ``test`` if the run has been tested.
        data_dir: Folder of the data; ``None`` takes the one that the checkpoint names.
        format: Format of the figures, ``png`` or ``svg``.

    Returns:
        Path of the page.

    Raises:
        ConfigurationError: There is neither a table of metrics nor a checkpoint that can be evaluated.
    """
    folder = run_folder(folder)
    table = folder / "metrics.csv"
    history = read_metrics(table) if table.is_file() else {}
    stage = stage or ("test" if any(name.startswith("test/") for name in history) else "val")
    metrics = {name: values[-1][1] for name, values in history.items() if values}
    run = _Run(folder, format, stage, history, metrics, _checkpoint(folder))
    for name, figure in plots.training_curves(history).items():
        plots.save(figure, folder / "figures" / f"{name}.{format}")
    if run.checkpoint is None:
        run.note = "there is no checkpoint in the folder: only the curves are drawn"
    else:
        try:
            _evaluate(run, run.checkpoint, data_dir)
        except Exception as error:  # whatever the reason, the curves are worth a page without the rest
            if os.environ.get("INTFF_TRACEBACK"):
                raise
            reason = explain(error).replace("--data.data_dir", "--data_dir")
            run.note = f"the checkpoint was not evaluated: {reason}"
    if run.note:
        sys.stderr.write(f"{run.note}\n")
    if not history and not run.units:
        raise ConfigurationError(f"{folder} has no metrics.csv, and no checkpoint that can be evaluated.")
    page = folder / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(_page(run), encoding="utf-8")
    return page


def _checkpoint(folder: Path) -> Path | None:
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return next((path for path in found if path.name == "best.ckpt"), found[-1] if found else None)


def _evaluate(run: _Run, checkpoint: Path, data_dir: str | None) -> None:
    """Rebuild the network and its data, draw what they show, and note their metrics."""
    recipes = read_checkpoint(checkpoint).get("recipes", {})
    if "data" not in recipes:
        raise CheckpointError("it does not name its data (it was trained without a datamodule of this package).")
    if data_dir is not None:
        _set_data_dir(recipes["data"]["init_args"], data_dir)
    module, data = from_recipe(recipes["model"]), from_recipe(recipes["data"])
    figures = TrainingFigures(format=run.format, folder=str(run.folder / "figures"))
    trainer = L.Trainer(
        logger=False,
        callbacks=[GoodnessLogger(), metrics_of(module, data), figures],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers, and callbacks of the training
        evaluate = trainer.test if run.stage == "test" else trainer.validate
        evaluate(module, data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if run.stage == "test":
        run.metrics = {**found, **run.metrics}  # what the run has measured itself, in its own precision
    else:  # it has measured the last epoch
        run.metrics = {name: value for name, value in run.metrics.items() if not name.startswith("val/")} | found
    run.vote, run.units = module.vote if isinstance(module, LabelClassifier) else [], unit_rows(module)


def _set_data_dir(arguments: dict[str, Any], data_dir: str) -> None:
    """Set the folder of a datamodule, or of the one that it wraps."""
    if "data_dir" in arguments:
        arguments["data_dir"] = data_dir
    for value in arguments.values():
        if isinstance(value, dict) and isinstance(value.get("init_args"), dict):
            _set_data_dir(value["init_args"], data_dir)


# -------------------------------------------------------------------- the page


def _page(run: _Run) -> str:
    name = run.folder.absolute().name
    epochs = max((values[-1][0] for metric, values in run.history.items() if metric.startswith("train/")), default=0)
    facts = [f"{epochs} epochs" if epochs else "", f"checkpoint {run.checkpoint.name}" if run.checkpoint else ""]
    facts += [f"intff_lightning {__version__}, torch {torch.__version__}"]
    parts = [
        f"<h1>{html.escape(f'{run.folder.absolute().parent.name}/{name}')}</h1>",
        f'<p class="about">{html.escape(" · ".join(fact for fact in facts if fact))}</p>',
    ]
    if run.note:
        parts.append(f'<p class="note">{html.escape(run.note)}</p>')
    validated = run.stage == "val" and not run.note
    for stage, title in {"test": "Test", "val": "Validation" if validated else "Validation of the last epoch"}.items():
        if f"{stage}/loss" in run.metrics:
            parts += [f"<h2>{title}</h2>", pages.table(result_rows(run.metrics, stage, run.vote))]
    if run.units:
        parts += ["<h2>Network</h2>", pages.table(run.units, "units")]
    figures = (_figure(run, name, *caption) for name, caption in _CAPTIONS.items())
    parts += ["<h2>Figures</h2><main>", *figures, "</main>"]
    config = config_file(run.folder)
    if config is not None:
        text = html.escape(config.read_text(encoding="utf-8"))
        parts.append(f"<h2>Configuration</h2><details><summary>{config.name}</summary><pre>{text}</pre></details>")
    return pages.page(f"{name}: intff_lightning", parts)


def _figure(run: _Run, name: str, title: str, text: str) -> str:
    path = run.folder / "figures" / f"{name}.{run.format}"
    if not path.is_file():
        return ""
    picture = pages.image(path.read_bytes(), run.format, title, plot=name not in _PHOTOGRAPHS)
    return pages.figure(picture, title, text, wide=name in ("goodness_histograms", "wrong_predictions"))


# -------------------------------------------------------------------- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intff report",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="log folder of a run")
    parser.add_argument("--format", choices=["png", "svg"], default="png", help="format of the figures (default: png)")
    one = parser.add_argument_group("one run")
    one.add_argument("--stage", choices=["val", "test"], help="data to evaluate on (default: test, if tested)")
    one.add_argument("--data_dir", help="folder of the data, if it is not the one that the run used")
    several = parser.add_argument_group("several runs")
    several.add_argument("--out", type=Path, metavar="FILE", help="the page (default: comparison.html)")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 for an error; wrong arguments exit with 2."""
    parser = _parser()
    arguments = parser.parse_args(args)
    several = len(arguments.runs) > 1
    idle = [f"--{name}" for name in (("stage", "data_dir") if several else ("out",)) if getattr(arguments, name)]
    if idle:
        parser.error(f"{' and '.join(idle)} would have no effect with {'several runs' if several else 'one run'}.")
    quiet()
    try:
        if several:
            page = write_comparison(arguments.runs, arguments.out or Path("comparison.html"), arguments.format)
        else:
            page = write_report(arguments.runs[0], arguments.stage, arguments.data_dir, arguments.format)
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {explain(error)}\n")
        return 1
    if not several:
        print(f"figures     {os.path.relpath(page.parent / 'figures')}")
    print(f"report      {os.path.relpath(page)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
