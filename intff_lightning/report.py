"""``python -m intff_lightning.report LOGDIR``: every figure of a run, and one HTML page that holds them all."""

import argparse
import base64
import csv
import html
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import lightning as L
import torch

from intff_lightning import drawing
from intff_lightning._version import __version__
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, TrainingFigures
from intff_lightning.callbacks.terminal import result_rows, unit_rows
from intff_lightning.errors import CheckpointError, ConfigurationError
from intff_lightning.messages import explain, quiet
from intff_lightning.recipe import build
from intff_lightning.resuming import read_checkpoint

__all__ = ["main", "read_metrics", "write_report"]

_HELP = """Draw every figure of a run into LOGDIR/figures, and one self-contained page of them, LOGDIR/report.html.

LOGDIR is the log folder of a run that has ended or goes on (lightning_logs/version_0), or a folder of several, of
which the newest is taken. Curves come from its metrics.csv; histograms, confusion, receptive fields and wrong
predictions from its best checkpoint (else the last) and the data that this names."""

Format = Literal["png", "svg"]

_CAPTIONS = {
    "local_loss": ("Local loss", "Mean local loss of each unit over the epochs."),
    "loss": ("Loss", "Training and validation loss over the epochs."),
    "accuracy": ("Accuracy over epochs", "Validation accuracy of each unit alone, and of the vote."),
    "goodness": ("Goodness over epochs", "Mean goodness of positive and negative training data."),
    "goodness_histograms": (
        "Goodness of each unit",
        "How goodness is spread over positive and negative data; the dashed line is the loss's threshold.",
    ),
    "accuracy_by_unit": ("Accuracy by unit", "Each unit alone, and the vote."),
    "confusion_matrix": ("Confusion", "Rows are true classes, columns are predictions."),
    "wrong_predictions": ("Wrong predictions", "The surest mistakes, each with the score of every label."),
    "receptive_fields": ("Receptive fields", "Weights of the first layer; grey is zero, white is positive."),
    "input_pairs": ("Inputs", "Positive and negative data as the first unit sees them."),
}


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The last value of every metric in every epoch, ``(epoch, value)`` from 1 on, of a ``metrics.csv``.

    Raises:
        ConfigurationError: it is no table of metrics.
    """
    epochs: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        *lines, _ = path.read_text().split("\n")  # what a run that goes on is writing just now has no end yet
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    epochs[name][int(row["epoch"]) + 1] = float(value)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{path} is no metrics.csv of Lightning's CSVLogger.") from None
    return {name: sorted(values.items()) for name, values in epochs.items()}


def write_report(folder: Path, split: str | None = None, data_dir: str | None = None, format: Format = "png") -> Path:
    """Draw the figures of a run and write its page.

    Args:
        folder: log folder of the run.
        split: ``val`` or ``test``; ``None`` is ``test`` where the run has been tested.
        data_dir: folder of the data; ``None`` is what the checkpoint names.
        format: of the figures, ``png`` or ``svg``.

    Returns:
        Path of the page.

    Raises:
        ConfigurationError: there is neither a table of metrics nor a checkpoint.
    """
    folder = _run_folder(folder)
    table = folder / "metrics.csv"
    history = read_metrics(table) if table.is_file() else {}
    split = split or ("test" if any(name.startswith("test/") for name in history) else "val")
    place = folder / "figures"
    for name, figure in drawing.training_curves(history).items():
        drawing.save(figure, place / f"{name}.{format}")
    metrics = {name: values[-1][1] for name, values in history.items() if values}
    checkpoint = _checkpoint(folder)
    note, vote, units = "", [], []
    if checkpoint is None:
        note = "there is no checkpoint in the folder: only the curves are drawn"
    else:
        try:
            module, evaluated = _evaluate(checkpoint, split, data_dir, place, format)
        except Exception as error:  # whatever hinders it: the curves are worth a page without the rest
            if os.environ.get("INTFF_TRACEBACK"):
                raise
            note = f"the checkpoint was not evaluated: {explain(error).replace('--data.data_dir', '--data_dir')}"
        else:
            metrics, vote, units = {**metrics, **evaluated}, list(getattr(module, "vote", [])), unit_rows(module)
    if note:
        sys.stderr.write(f"{note}\n")
    if not history and not units:
        raise ConfigurationError(f"{folder} has no metrics.csv, and no checkpoint that can be evaluated.")
    page = folder / "report.html"
    partial = page.with_name(".report.html")
    partial.write_text(_page(folder, history, metrics, split, vote, units, checkpoint, note, format), encoding="utf-8")
    partial.replace(page)
    return page


def _run_folder(folder: Path) -> Path:
    """The folder itself, or the newest run in it."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}.")

    def written(run: Path) -> float:
        """When the run wrote last, which a report does not move; 0 for what is no run."""
        files = [run / "metrics.csv", *(run / "checkpoints").glob("*.ckpt")]
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)

    if written(folder):
        return folder
    newest = max([*folder.glob("version_*"), *folder.glob("*/version_*")], key=written, default=folder)
    if not written(newest):
        raise ConfigurationError(
            f"{folder} is no log folder of a run: there is neither metrics.csv nor checkpoints in it.\n"
            "Name one, lightning_logs/version_0 for example."
        )
    return newest


def _checkpoint(folder: Path) -> Path | None:
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return next((path for path in found if path.name == "best.ckpt"), found[-1] if found else None)


def _evaluate(
    checkpoint: Path, split: str, data_dir: str | None, place: Path, format: Format
) -> tuple[L.LightningModule, dict[str, float]]:
    """Rebuild the network and its data, and draw what they show; the network and the metrics of ``split``."""
    recipes = read_checkpoint(checkpoint).get("recipes", {})
    if "data" not in recipes:
        raise CheckpointError("it does not name its data (it was trained without a datamodule of this package).")
    arguments = recipes["data"]["init_args"]
    if data_dir is not None and "data_dir" in arguments:
        arguments["data_dir"] = data_dir
    module, data = build(recipes["model"]), build(recipes["data"])
    trainer = L.Trainer(
        logger=False,
        callbacks=[GoodnessLogger(), GoodnessAccuracy(), TrainingFigures(format=format, folder=str(place))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers, and callbacks of the training
        run = trainer.test if split == "test" else trainer.validate
        run(module, data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


# -------------------------------------------------------------------- the page

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.about { color: #555; margin-top: .25rem; } p.note { border-left: 4px solid #b45309; padding-left: .75rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child, table.units td:nth-child(2), table.units th:nth-child(2) { text-align: left; }
th { border-bottom: 2px solid #555; } tr.whole td { font-weight: 600; border-top: 2px solid #555; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem;
  grid-auto-flow: dense; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .75rem; }
figure img { max-width: 100%; height: auto; display: block; margin: auto; }
figcaption { color: #555; font-size: .9rem; margin-top: .5rem; } figcaption b { color: #1a1a1a; }
figure.wide { grid-column: 1 / -1; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem; } summary { cursor: pointer; }
"""


def _page(
    folder: Path,
    history: Mapping[str, Sequence[tuple[int, float]]],
    metrics: Mapping[str, float],
    split: str,
    vote: list[int],
    units: list[list[str]],
    checkpoint: Path | None,
    note: str,
    format: Format,
) -> str:
    epochs = max((values[-1][0] for name, values in history.items() if name.startswith("train/")), default=0)
    facts = [f"{epochs} epochs" if epochs else "", f"checkpoint {checkpoint.name}" if checkpoint else ""]
    facts += [f"intff_lightning {__version__}, torch {torch.__version__}"]
    parts = [
        f"<h1>{html.escape(folder.absolute().parent.name)}/{html.escape(folder.absolute().name)}</h1>",
        f'<p class="about">{html.escape(" · ".join(fact for fact in facts if fact))}</p>',
    ]
    if note:
        parts.append(f'<p class="note">{html.escape(note)}</p>')
    stages = {"test": "Test", "val": "Validation" if split == "val" and not note else "Validation of the last epoch"}
    for stage, title in stages.items():
        if f"{stage}/loss" in metrics:
            parts += [f"<h2>{title}</h2>", _table(result_rows(metrics, stage, vote))]
    if units:
        parts += ["<h2>Network</h2>", _table(units, "units")]
    parts.append("<h2>Figures</h2><main>")
    for name, (title, text) in _CAPTIONS.items():
        path = folder / "figures" / f"{name}.{format}"
        if path.is_file():
            kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
            data = base64.b64encode(path.read_bytes()).decode()
            wide = ' class="wide"' if name in ("goodness_histograms", "wrong_predictions") else ""
            parts.append(
                f'<figure{wide}><img alt="{title}" src="data:{kind};base64,{data}">'
                f"<figcaption><b>{title}.</b> {text}</figcaption></figure>"
            )
    parts.append("</main>")
    config = folder / "config.yaml"
    config = config if config.is_file() else folder / "hparams.yaml"
    if config.is_file():
        text = html.escape(config.read_text(encoding="utf-8"))
        parts.append(f"<h2>Configuration</h2><details><summary>{config.name}</summary><pre>{text}</pre></details>")
    title = html.escape(folder.name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: intff_lightning</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(lines: list[list[str]], kind: str = "") -> str:
    head, *body = [[html.escape(cell).replace("\n", "<br>") for cell in line] for line in lines]
    rows = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    for line in body:
        whole = ' class="whole"' if line[0] == "network" else ""
        rows.append(f"<tr{whole}>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>")
    return f'<table class="{kind}">{"".join(rows)}</table>'


# -------------------------------------------------------------------- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m intff_lightning.report",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="LOGDIR", help="log folder of a run")
    parser.add_argument(
        "--split", choices=["val", "test"], help="data to evaluate on (default: test, if it was tested)"
    )
    parser.add_argument("--data_dir", help="folder of the data, where it is not the one that the run was given")
    parser.add_argument("--format", choices=["png", "svg"], default="png", help="of the figures (default: png)")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: arguments; ``None`` takes those of the process.

    Returns:
        Exit code: 0, or 1 for an error; wrong arguments exit with 2.
    """
    arguments = _parser().parse_args(args)
    quiet()
    try:
        page = write_report(arguments.folder, arguments.split, arguments.data_dir, arguments.format)
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {explain(error)}\n")
        return 1
    print(f"figures     {os.path.relpath(page.parent / 'figures')}")
    print(f"report      {os.path.relpath(page)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
