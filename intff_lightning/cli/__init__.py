"""The command line: ``intff {fit,validate,test,predict,configs,report}``, or ``python -m intff_lightning``."""

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from intff_lightning._version import __version__

if TYPE_CHECKING:
    from intff_lightning.cli.command import IntFFCLI

__all__ = ["IntFFCLI", "main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The code is 0, 1 for an error while running, 2 for wrong arguments, 130 after a Ctrl-C, or 143 after SIGTERM.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if argv in (["--help"], ["-h"], []):  # needs neither torch nor Lightning, which take seconds
        from intff_lightning.cli.overview import overview

        print(overview().format_help(), end="")
        return 0 if argv else 2
    if argv == ["--version"]:
        print(f"intff_lightning {__version__}")
        return 0
    if argv[:1] == ["configs"]:
        from intff_lightning.cli.configs import list_configs

        return list_configs(argv[1:])
    if argv[:1] == ["report"]:
        from intff_lightning.report import main as report

        return report(argv[1:])
    new = "torch" not in sys.modules and gc.isenabled()
    if new:  # a quarter of the imports is a search for garbage among what they make and keep
        gc.disable()
    try:
        from intff_lightning.cli.command import run
    finally:
        if new:
            gc.freeze()
            gc.enable()
    return run(argv)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import the class when it is asked for."""
        if name != "IntFFCLI":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from intff_lightning.cli.command import IntFFCLI

        return IntFFCLI
