"""Linear probe on a trained MNIST network: what the frozen units know, by features, beside the argmax accuracy."""

import argparse
from typing import Any

import lightning as L

from benchmarks.results import summary, write
from intff_lightning import IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, LinearProbe
from intff_lightning.datamodules import MNISTDataModule

HELP = "linear probe on a trained network, by features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", nargs="+", required=True, help="networks trained on MNIST, one per seed")


def main(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for label in ("all", "neutral"):
        for hidden in (False, True):
            read, argmax = [], []
            for checkpoint in arguments.checkpoint:
                module = IntFFModule.load_from_checkpoint(checkpoint)
                probe = LinearProbe(label=label, hidden=hidden)
                trainer = L.Trainer(logger=False, enable_progress_bar=False, callbacks=[GoodnessAccuracy(), probe])
                trainer.test(module, MNISTDataModule(arguments.data_dir, batch_size=256), verbose=False)
                read.append(100 * float(trainer.callback_metrics["test/probe_accuracy"]))
                argmax.append(100 * float(trainer.callback_metrics["test/accuracy"]))
            rows.append(
                {
                    "features": ("every layer" if hidden else "unit outputs")
                    + (" under every label" if label == "all" else ", neutral label"),
                    "probe, test accuracy %": " ".join(f"{value:.2f}" for value in read),
                    "mean": round(summary(read)["mean"], 2),
                    "argmax, test accuracy %": " ".join(f"{value:.2f}" for value in argmax),
                    "mean of argmax": round(summary(argmax)["mean"], 2),
                }
            )
    write(
        "probe", arguments.out, rows, note=f"`LinearProbe()` with its defaults, {len(arguments.checkpoint)} networks."
    )
