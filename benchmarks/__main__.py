"""``python -m benchmarks NAME --out DIR``."""

import argparse
import importlib
import os
from pathlib import Path

NAMES = {
    "accuracy": "test accuracy of a config over seeds",
    "probe": "linear probe on a trained network, by features",
    "resume": "runs killed at random moments and resumed, against the run that nobody killed",
    "throughput": "epoch time against a bare PyTorch loop",
    "time_to_accuracy": "seconds from process start until the validation accuracy passes a mark",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", required=True)
    for name, text in NAMES.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--out", type=Path, default=Path("results"), help="folder of the result (default: results)"
        )
        command.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of the data")
        if name == "throughput":
            command.add_argument("--epochs", type=int, default=8, help="pairs of epochs")
        if name in ("accuracy", "time_to_accuracy"):
            command.add_argument("--config", required=name == "accuracy", default="configs/mnist_fast.yaml")
            command.add_argument("--seeds", type=int, default=5 if name == "accuracy" else 3)
        if name == "time_to_accuracy":
            command.add_argument("--mark", type=float, default=98.0, help="validation accuracy, percent")
        if name == "resume":
            command.add_argument("--runs", type=int, default=30, help="that are killed")
        if name == "probe":
            command.add_argument("--checkpoint", nargs="+", required=True, help="of networks on MNIST, a seed each")
    arguments = parser.parse_args()
    importlib.import_module(f"benchmarks.{arguments.name}").main(arguments)


main()
