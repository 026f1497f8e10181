"""The command: ``python -m intff_lightning.reproduce NAME --seeds N --out DIR``."""

import argparse
import os
import sys
from collections.abc import Sequence

from intff_lightning.errors import ConfigurationError, explain
from intff_lightning.lightning_compat import quiet
from intff_lightning.reproduce import paper
from intff_lightning.reproduce.characteristics import command as characteristics
from intff_lightning.reproduce.options import Subcommand, add_common_arguments, count, results_folder
from intff_lightning.reproduce.spaces import ALGORITHMS, STUDIES
from intff_lightning.reproduce.tasks import command as tasks

_HELP = """Rebuild the tables and figures of "The Integrated Forward-Forward Algorithm" (Tang, 2023), and surpass them.

Each command writes NAME.json, NAME.md and, for figures, NAME.png. A finished run is kept under OUT/runs and is never
trained twice; after an interruption the same command continues where it stopped. Rows of an earlier call that this one
does not train are kept."""


def _add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help="one of the studies above")
    parser.add_argument(
        "--trials", type=count, metavar="N", help="trials of each algorithm; default 30, or 12 for convolution"
    )
    parser.add_argument(
        "--algorithms", choices=ALGORITHMS, nargs="+", default=list(ALGORITHMS), help="default: all four"
    )
    parser.add_argument("--jobs", type=count, default=1, help="trials at a time, each on its share of the cores")
    add_common_arguments(parser)


def _tune(arguments: argparse.Namespace, line: str) -> None:
    try:
        from intff_lightning.reproduce.tuning import tune
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigurationError('tune needs Optuna: pip install "intff-lightning[tune]".') from None
    given = (arguments.study, arguments.algorithms, arguments.trials, arguments.jobs, arguments.data_dir)
    paths = tune(*given, results_folder(arguments) / "tuning", arguments.quick, line)
    print("written: " + ", ".join(str(path) for path in paths))


SUBCOMMANDS = [
    *paper.SUBCOMMANDS,
    characteristics.SUBCOMMAND,
    tasks.SUBCOMMAND,
    Subcommand(
        "tune",
        "search settings by Optuna, on validation data only",
        _add_tune_arguments,
        _tune,
        "Search settings by Optuna, on validation data only; every algorithm gets as many trials.\n\n"
        + "\n".join(f"{name}: {study.title}" for name, study in STUDIES.items()),
    ),
]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m intff_lightning.reproduce",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for subcommand in SUBCOMMANDS:
        own = names.add_parser(
            subcommand.name,
            help=subcommand.help,
            description=subcommand.description or None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        subcommand.add_arguments(own)
        own.set_defaults(run=subcommand.run)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, or 130 after a Ctrl-C."""
    arguments = _parser().parse_args(args)
    quiet()
    line = "python -m intff_lightning.reproduce " + " ".join(sys.argv[1:] if args is None else args)
    try:
        arguments.run(arguments, line)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns a Ctrl-C into an exit
        sys.stderr.write("interrupted; the same command continues from here\n")
        return 130
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {explain(error).replace('--data.data_dir', '--data_dir')}\n")
        return 1
    return 0
