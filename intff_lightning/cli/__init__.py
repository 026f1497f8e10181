"""The command line: ``intff {fit,validate,test,predict}``, or ``python -m intff_lightning``."""

from intff_lightning.cli.command import IntFFCLI, main

__all__ = ["IntFFCLI", "main"]
