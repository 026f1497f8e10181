"""``python -m benchmarks NAME --out DIR``: each benchmark is a module with ``HELP``, ``add_arguments`` and ``main``."""

import argparse
import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import benchmarks

SHARED = ("opponents", "results", "pipeline_worker", "pipeline_model", "__main__")  # tools of the benchmarks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", required=True)
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name not in SHARED:
            benchmark = importlib.import_module(f"benchmarks.{module.name}")
            command = commands.add_parser(module.name, help=benchmark.HELP, description=benchmark.__doc__)
            command.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder of the result")
            command.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="data's folder")
            benchmark.add_arguments(command)
            command.set_defaults(main=benchmark.main)
    arguments = parser.parse_args(argv)
    arguments.main(arguments)


if __name__ == "__main__":
    main()
