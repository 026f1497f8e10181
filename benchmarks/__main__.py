"""``python -m benchmarks NAME --out DIR``."""

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

NAMES = {
    "accuracy": "test accuracy of a config over seeds",
    "inference": "trying every label at once, against a pass a label",
    "memory": "peak activation memory of a training step over depth, against backpropagation",
    "probe": "linear probe on a trained network, by features",
    "resume": "runs killed at random moments and resumed, against the run that nobody killed",
    "scaling": "seconds and memory over batch size, width, depth, classes and data, against backpropagation",
    "startup": "seconds until the help, and until the first batch, against the imports alone",
    "steps": "a training step against backpropagation, and what each optimization gives",
    "throughput": "epoch time against bare PyTorch loops",
    "time_to_accuracy": "seconds from process start until the validation accuracy passes a mark",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", required=True)
    for name, text in NAMES.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--out", type=Path, default=Path("results"), help="folder of the result (default: results)"
        )
        command.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of the data")
        if name in ("inference", "memory", "scaling", "startup", "steps", "throughput"):
            command.add_argument(
                "--quick", action="store_true", help="the shape of it in seconds; figures mean nothing"
            )
        if name in ("inference", "memory", "scaling", "steps"):
            command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        if name == "throughput":
            command.add_argument("--epochs", type=int, default=8, help="of every loop that count; two more are run")
        if name in ("accuracy", "time_to_accuracy"):
            command.add_argument("--config", required=name == "accuracy", default="configs/mnist_fast.yaml")
            command.add_argument("--seeds", type=int, default=5 if name == "accuracy" else 3)
        if name == "time_to_accuracy":
            command.add_argument("--mark", type=float, default=98.0, help="validation accuracy, percent")
        if name == "resume":
            command.add_argument("--runs", type=int, default=30, help="that are killed")
        if name == "probe":
            command.add_argument("--checkpoint", nargs="+", required=True, help="of networks on MNIST, a seed each")
    arguments = parser.parse_args(argv)
    importlib.import_module(f"benchmarks.{arguments.name}").main(arguments)


if __name__ == "__main__":
    main()
