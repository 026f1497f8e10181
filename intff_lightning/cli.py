"""The command line: ``python -m intff_lightning {fit,validate,test,predict}``."""

import argparse
import inspect
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch.distributed
import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from rich.console import Console

import intff_lightning.augmentations
import intff_lightning.backprop
import intff_lightning.corruptions
import intff_lightning.datamodules
import intff_lightning.module
import intff_lightning.negatives
import intff_lightning.optim  # noqa: F401  # with these imported, a config may name their classes alone
from intff_lightning import callbacks as ours
from intff_lightning.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.messages import explain, known_options, quiet, shorten
from intff_lightning.network import Network
from intff_lightning.recipe import Recorded
from intff_lightning.resuming import ResumableCSVLogger, find_checkpoint, log_root, read_checkpoint, resumed_version

__all__ = ["IntFFCLI", "main"]

_EXAMPLES = """Train networks with the Integrated Forward-Forward algorithm: local losses, no global backward pass.

  python -m intff_lightning fit --config configs/digits.yaml
  python -m intff_lightning fit --config configs/mnist.yaml --data.data_dir DIR --trainer.max_epochs 5
  python -m intff_lightning test --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt
  python -m intff_lightning predict --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt

Every argument of a config file can be given as an option, and `COMMAND --config FILE --print_config` shows them all."""


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the examples."""


class _Parser(LightningArgumentParser):
    """Says what is wrong in a few lines, without the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {shorten(message, known_options(self))}\n")
        sys.exit(2)


class IntFFCLI(LightningCLI):
    """LightningCLI with the package's callbacks and loggers by default, and a test of the best weights after fit."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Without abbreviations: a mistyped option must not pass for another."""
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what a checkpoint knows of its network and data goes before the user's own arguments."""
        with tempfile.TemporaryDirectory() as folder:
            self.config = parser.parse_args(_with_recipes(list(args), folder))

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's hyperparameters beat the user's arguments here; see above."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of our own."""
        parser.add_class_arguments(ours.LinearProbe, "probe")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the best weights when fit is done.")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add the default callbacks, loggers and checkpoint plugin, where the user has not given others."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if config.get("barebones"):  # nothing but the loop
            return self._instantiate_trainer(config, [])
        root = Path(config.get("default_root_dir") or ".")
        progress = config.get("enable_progress_bar")
        progress = sys.stdout.isatty() if progress is None else bool(progress)
        config["enable_progress_bar"] = progress
        quick = bool(config.get("fast_dev_run"))
        if config.get("logger") in (None, True) and not quick:
            _check_writable(root)
            config["logger"] = self._loggers(root)
        given = config.get("callbacks") or []
        given = list(given) if isinstance(given, list) else [given]
        report = ours.TerminalReport(epoch_lines=not progress)
        defaults: list[Callback] = [ours.GoodnessLogger(), ours.GoodnessAccuracy(), report]
        unsupervised = getattr(self.model, "unsupervised", False)
        probe = self._get(self.config_init, "probe")
        if hasattr(self.model, "embed") and not getattr(self.model, "by_class", False):
            if unsupervised:  # the probe is all there is to choose the best weights by
                probe.every_n_epochs = probe.every_n_epochs or 1
            defaults.insert(2, probe)
        elif not _is_default(probe):
            raise ConfigurationError(
                "this network is read without a linear probe (it is asked for the classes themselves):\n"
                "leave the options --probe.* out."
            )
        if self.subcommand == "predict":
            defaults = [ours.PredictionWriter()]
        if self.subcommand == "fit" and not quick:
            defaults.append(ours.TrainingFigures())
            if config.get("enable_checkpointing") is not False and not any(
                isinstance(callback, ModelCheckpoint) and not isinstance(callback, BestCheckpoint | LastCheckpoint)
                for callback in given
            ):
                monitor = "val/probe_accuracy" if unsupervised else "val/accuracy"
                defaults += [BestCheckpoint(monitor), LastCheckpoint()]
        if progress and not any(isinstance(callback, ProgressBar) for callback in given):
            defaults.append(ours.UnitProgress())
        if config.get("enable_model_summary") is None:  # ours says more of the units
            config["enable_model_summary"] = False
        kinds = {type(callback) for callback in given}
        config["callbacks"] = given + [callback for callback in defaults if type(callback) not in kinds]
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        config["plugins"] = plugins
        return self._instantiate_trainer(config, [])

    def _loggers(self, root: Path) -> list[Logger]:
        if self.subcommand != "fit":
            return [ResumableCSVLogger(root)]
        path = self._get(self.config_init, "ckpt_path")
        version, step, row = resumed_version(path, root), None, None
        if version is not None:
            checkpoint = read_checkpoint(path)
            step, row = checkpoint["global_step"], checkpoint["callbacks"].get("LastCheckpoint", {}).get("epoch_row")
        table = ResumableCSVLogger(root, version, resume_step=step, epoch_row=row)
        return [table, TensorBoardLogger(root, version=table.version, purge_step=step)]

    def after_fit(self) -> None:
        """Test the best weights, and say where everything is."""
        trainer: Any = self.trainer  # its connectors add attributes that its class does not declare
        config = self.config["fit"]
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") if trainer.checkpoint_callback else ""
        paths = [callback.best_model_path for callback in trainer.checkpoint_callbacks]
        if config["test_after_fit"] and not trainer.fast_dev_run and not trainer.barebones:
            if not best or not Path(best).is_file():
                print("no best checkpoint was kept (there is no validation data): the last weights are tested")
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False)
        log_dir = trainer.log_dir  # on every process: it asks the first one
        if trainer.is_global_zero and log_dir:
            _say_where(Path(log_dir), [Path(path) for path in paths if path])

    def before_fit(self) -> None:
        """Keep the configuration beside the results."""
        log_dir = self.trainer.log_dir
        if log_dir and self.trainer.is_global_zero and self.trainer.loggers:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
            config = Path(log_dir) / "config.yaml"
            self._parser(self.subcommand).save(self.config[self.subcommand], config, overwrite=True, skip_none=False)

    before_predict = before_fit

    def before_validate(self) -> None:
        """As before a fit; Lightning's own table of results would repeat ours."""
        self.before_fit()
        self.config_init[self.subcommand]["verbose"] = False

    before_test = before_validate

    def after_predict(self) -> None:
        """Say where the predictions are."""
        writer = next((c for c in self.trainer.callbacks if isinstance(c, ours.PredictionWriter)), None)  # type: ignore[attr-defined]
        if writer is not None and self.trainer.is_global_zero:
            print(f"predictions  {writer.path}")


def _is_default(part: Recorded) -> bool:
    parameters = inspect.signature(type(part)).parameters
    return all(value == parameters[name].default for name, value in part.init_arguments().items())


def _with_recipes(argv: list[str], folder: str) -> list[str]:
    """Find ``--ckpt_path last`` or ``best``; put a checkpoint's recipes before the user's arguments, as a file."""
    span = slice(0, 0)
    for position, argument in enumerate(argv):
        if argument.partition("=")[0] == "--ckpt_path":
            span = slice(position, position + (1 if "=" in argument else 2))
    path = " ".join(argv[span]).removeprefix("--ckpt_path")[1:]
    if path in ("", "hpc", "registry"):
        return argv
    if path in ("last", "best"):
        root = log_root(argv)
        found = find_checkpoint(path, root)
        if found is None and (argv[0], path) == ("fit", "last"):
            sys.stderr.write(f"there is no last.ckpt under {root / 'lightning_logs'} yet: starting anew\n")
            return argv[: span.start] + argv[span.stop :]
        path = str(found or root / f"lightning_logs/version_N/checkpoints/{path}.ckpt")
        argv = [*argv[: span.start], "--ckpt_path", path, *argv[span.stop :]]
    if not Path(path).is_file():
        raise ConfigurationError(f"--ckpt_path: there is no file {path}.")
    config = Path(folder) / "checkpoint.yaml"
    config.write_text(yaml.safe_dump(read_checkpoint(path).get("recipes", {})))
    return [argv[0], "--config", str(config), *argv[1:]]


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"the log folder {root.absolute()} cannot be written ({error.strerror}).\n"
            "Choose another: --trainer.default_root_dir DIR."
        ) from None


def _say_where(log_dir: Path, checkpoints: list[Path]) -> None:
    places = [("checkpoint", path) for path in checkpoints]
    places += [("metrics", log_dir / "metrics.csv"), ("figures", log_dir / "figures")]
    for what, path in places:
        if path.exists():
            print(f"{what:<12}{os.path.relpath(path)}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: arguments; ``None`` takes those of the process.

    Returns:
        Exit code: 0, 1 for an error while running, 2 for wrong arguments, 130 after a Ctrl-C.
    """
    argv = list(sys.argv[1:] if args is None else args)
    quiet()
    cli = IntFFCLI.__new__(IntFFCLI)  # apart from its constructor, which runs the command and may not return
    try:
        IntFFCLI.__init__(
            cli,
            Network,
            PairedDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=_Parser,
            parser_kwargs={
                "prog": "python -m intff_lightning",
                "description": _EXAMPLES,
                "formatter_class": _Help,
            },
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=argv,
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns a Ctrl-C into a plain exit
        trainer = getattr(cli, "trainer", None)
        if isinstance(stop, KeyboardInterrupt) or (trainer is not None and trainer.interrupted):
            sys.stderr.write("interrupted; go on with fit --ckpt_path .../checkpoints/last.ckpt and the same options\n")
            return 130
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {explain(error)}", markup=False)
        return 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or its threads may abort while the interpreter ends
    return 0
