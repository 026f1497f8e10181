"""IntFFCLI: Lightning's command line with the package's callbacks, loggers and messages."""

import argparse
import functools
import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
import torch.distributed
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch.utils.data import TensorDataset

import intff_lightning.augmentations
import intff_lightning.corruptions
import intff_lightning.datamodules
import intff_lightning.distortions
import intff_lightning.heads
import intff_lightning.labels
import intff_lightning.module
import intff_lightning.negatives
import intff_lightning.optim
import intff_lightning.pretext
import intff_lightning.targets
import intff_lightning.units
import intff_lightning.views  # noqa: F401  # with these imported, a config may name their classes alone
from intff_lightning import callbacks as ours
from intff_lightning.checkpoints import AtomicCheckpointIO, read_checkpoint
from intff_lightning.classifier import LabelClassifier
from intff_lightning.cli.configs import find_config
from intff_lightning.cli.loggers import EventLogger, ResumableCSVLogger
from intff_lightning.cli.messages import check_yaml, known_options, shorten
from intff_lightning.cli.overview import DESCRIPTION
from intff_lightning.cli.resume import RUNS, newest_first, with_checkpoint
from intff_lightning.datamodules import OneClassDataModule, PairedDataModule
from intff_lightning.datamodules.pictures import Pictures, read_pictures
from intff_lightning.errors import CheckpointError, ConfigurationError, explain
from intff_lightning.files import atomic_write, is_locked
from intff_lightning.functional import float_pixels
from intff_lightning.lightning_compat import CompatCLI, quiet, take_version
from intff_lightning.network import Network
from intff_lightning.recipe import Recorded
from intff_lightning.regression import Regressor


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the examples."""


class _Parser(LightningArgumentParser):
    """Says what is wrong in a few lines, without the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {shorten(message, known_options(self))}\n")
        sys.exit(2)


class IntFFCLI(CompatCLI):
    """LightningCLI with the package's callbacks and loggers by default, and a test of the best weights after fit."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Forbid abbreviations: a mistyped option must not pass for another."""
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments. What a checkpoint says of its network and data comes first, so that they override it."""
        try:
            argv = _with_config_files(list(args))
        except ConfigurationError as error:
            parser.error(str(error))
        self.config = parser.parse_args(with_checkpoint(parser, argv))
        subcommand = self.config.subcommand
        if subcommand not in (None, "predict") and self.config[subcommand].images is not None:
            parser.error(f"the option --images has no effect in {subcommand}: it is for predict.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(ours.LinearProbe, "probe")
        parser.add_argument(
            "--images", type=str, default=None, help="For predict: a picture, or a folder of pictures, to classify."
        )
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the best weights when fit is done.")

    # ---------------------------------------------------------------- the Trainer

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add the default callbacks, loggers and checkpoint plugin, unless the user gives others."""
        options = {**self.value("trainer", {}), **kwargs}
        if options.get("barebones"):  # nothing but the loop
            return self.make_trainer(options)
        progress = options.get("enable_progress_bar")
        given = _as_list(options.get("callbacks"))
        if progress is None:
            progress = sys.stdout.isatty() or any(isinstance(callback, ProgressBar) for callback in given)
        progress = bool(progress)
        kinds = {type(callback) for callback in given}
        defaults = self._default_callbacks(options, given, progress)
        plugins = _as_list(options.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        if not options.get("fast_dev_run"):
            if options.get("logger") in (None, True):
                options["logger"] = self._default_loggers(Path(options.get("default_root_dir") or "."))
            if options["logger"] is not False:
                options["logger"] = self._with_folder(_as_list(options["logger"]), options)
            for logger in _as_list(options["logger"]):
                if isinstance(logger, CSVLogger | TensorBoardLogger):
                    take_version(logger, self.value("ckpt_path"))
        if (
            self.subcommand == "predict"
            and self.value("images") is not None
            and options.get("devices") in (None, "auto")
        ):
            options["devices"] = 1  # there may be fewer pictures than devices
        if options.get("enable_model_summary") is None:  # TerminalReport says more about the units
            options["enable_model_summary"] = False
        options |= {
            "callbacks": given + [callback for callback in defaults if type(callback) not in kinds],
            "plugins": plugins,
            "enable_progress_bar": progress,
        }
        return self.make_trainer(options)

    def _default_callbacks(self, options: dict[str, Any], given: list[Callback], progress: bool) -> list[Callback]:
        bar = [ours.UnitProgress()] if progress and not any(isinstance(c, ProgressBar) for c in given) else []
        probe = self._probe()
        if self.subcommand == "predict":
            return [self._writer(), *bar]
        report = ours.TerminalReport(epoch_lines=not progress)
        metrics = ours.metrics_of(self.model, self.datamodule)
        callbacks = [ours.GoodnessLogger(), metrics, *([probe] if probe else []), report]
        if self.subcommand == "fit" and not options.get("fast_dev_run"):
            callbacks.append(ours.TrainingFigures())
            own = (ours.BestCheckpoint, ours.LastCheckpoint)
            others = [c for c in given if isinstance(c, ModelCheckpoint) and not isinstance(c, own)]
            if options.get("enable_checkpointing") is not False and not others:
                best = "val/probe_accuracy" if self._unsupervised() else "val/accuracy"
                best = "val/r2" if isinstance(self.model, Regressor) else best
                best = "val/auroc" if self._one_class() else best
                callbacks += [ours.BestCheckpoint(best), ours.LastCheckpoint()]
        return [*callbacks, *bar]

    def _writer(self) -> ours.PredictionWriter:
        if self.model.predicts == "numbers":
            return ours.EstimateWriter()
        if self.model.predicts == "anomaly scores":
            return ours.AnomalyWriter(names=self.pictures[0] if self.pictures else None)
        return ours.PictureWriter(*self.pictures[:2]) if self.pictures else ours.PredictionWriter()

    @functools.cached_property
    def pictures(self) -> Pictures | None:
        """The user's own pictures to classify, or ``None`` if they are to come from the data."""
        path, shape = self.value("images"), self.model.hparams["input_shape"]
        if path is None:
            return None
        if isinstance(self.model, Regressor):
            raise ConfigurationError("--images is for networks with classes, and this one predicts a number.")
        if shape is None:
            raise ConfigurationError("--images needs a trained network: give --ckpt_path FILE, or pretrained:NAME.")
        pictures = read_pictures(path, shape, self.datamodule.framing, self.datamodule.read_picture)
        for reason in pictures.skipped:
            rank_zero_warn(f"skipped: {reason}")
        corruption = self.datamodule.test_corruption
        if corruption is None:
            return pictures
        rank_zero_warn(f"the pictures are corrupted by {type(corruption).__name__} (data.test_corruption)")
        number, seed = torch.arange(len(pictures.image)), self.datamodule.settle_seed()
        image = corruption.of_test_images(float_pixels(pictures.image), number, seed=seed)
        return Pictures(pictures.names, (255 * image.clamp(0, 1)).round().to(torch.uint8), pictures.skipped)

    def _unsupervised(self) -> bool:
        return isinstance(self.model, Network) and self.model.unsupervised

    def _one_class(self) -> bool:
        return isinstance(self.datamodule, OneClassDataModule)

    def _probe(self) -> ours.LinearProbe | None:
        """Return the linear probe, or ``None`` for networks that are asked for the classes themselves."""
        probe: ours.LinearProbe = self.value("probe")
        other = self._one_class() or isinstance(self.model, Regressor)
        unlabelled = self._unsupervised()
        shows_labels = isinstance(self.model, LabelClassifier) and not self.model.by_class
        if (unlabelled or shows_labels) and not other:
            if unlabelled:  # only the probe can choose the best weights
                probe.every_n_epochs = probe.every_n_epochs or 1
            return probe
        if not _is_default(probe):
            why = "its training data has one class" if self._one_class() else "it gives the predictions itself"
            raise ConfigurationError(f"this network needs no linear probe ({why}):\nleave the options --probe.* out.")
        return None

    def _with_folder(self, loggers: list[Any], options: dict[str, Any]) -> list[Any]:
        """Put a logger with a folder for each run in front: by others, all runs would write to one folder."""
        own: list[Logger] = [logger for logger in loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]
        others = [logger for logger in loggers if logger not in own]
        if not own and any(isinstance(logger, Logger) for logger in others):
            own = self._default_loggers(Path(options.get("default_root_dir") or "."), events=False)
        return own + others

    def _default_loggers(self, root: Path, events: bool = True) -> list[Logger]:
        _check_writable(root)
        if self.subcommand != "fit":
            return [ResumableCSVLogger(root)]
        path = self.value("ckpt_path")
        version, step, last = _resumed_version(path, root), None, {}
        if version is not None:
            checkpoint = read_checkpoint(path)
            step, last = checkpoint["global_step"], (checkpoint.get("callbacks") or {}).get("LastCheckpoint", {})
        table = ResumableCSVLogger(root, version, step, last.get("row"), last.get("validations"))
        take_version(table, None)
        return [table, EventLogger(root, version=table.version, purge_step=step)] if events else [table]

    # ---------------------------------------------------------------- before and after a command

    def before_fit(self) -> None:
        """Keep the configuration beside the results; that of a resumed run once it trains, for it may be refused."""
        if self.value("ckpt_path"):
            callbacks: Any = self.trainer  # its connectors add attributes that its class does not declare
            callbacks.callbacks.append(LambdaCallback(on_train_start=lambda *_: self._keep_config()))
        else:
            self._keep_config()

    def _keep_config(self) -> None:
        log_dir = self.trainer.log_dir
        if log_dir and self.trainer.is_global_zero and self.trainer.loggers:
            with atomic_write(Path(log_dir) / "config.yaml") as partial:
                self.save_config(partial)

    def before_predict(self) -> None:
        """Keep the configuration; let the user's pictures take the place of the data."""
        self._keep_config()
        if self.pictures is not None:
            classes, size = self.model.hparams["num_classes"], self.datamodule.batch_size
            data = TensorDataset(self.pictures.image)
            self.datamodule = PairedDataModule(predict=data, num_classes=classes, batch_size=size)

    def before_validate(self) -> None:
        """Keep the configuration; Lightning's table of results would repeat ours."""
        self._keep_config()
        self.config_init[self.subcommand]["verbose"] = False

    before_test = before_validate

    def after_fit(self) -> None:
        """Test the best weights, and print where everything is."""
        trainer: Any = self.trainer  # its connectors add attributes that its class does not declare
        if any(isinstance(callback, ours.LastCheckpoint) and callback.stopped for callback in trainer.callbacks):
            raise KeyboardInterrupt  # it arrived when training was about to end
        checkpoint = trainer.checkpoint_callback
        best = checkpoint.best_model_path if isinstance(checkpoint, ModelCheckpoint) else ""
        paths = [callback.best_model_path for callback in trainer.checkpoint_callbacks]
        tests = self.config["fit"]["test_after_fit"] and self.datamodule.has_data("test")
        if tests and not trainer.fast_dev_run and not trainer.barebones:
            if best and not Path(best).is_file():
                raise CheckpointError(f"{os.path.relpath(best)} is gone, so the best weights cannot be tested.")
            if not best and trainer.is_global_zero:
                kept = "no best checkpoint was kept (there was no validation): the last weights are tested"
                print(kept if trainer.global_step else "nothing was trained: the first weights are tested")
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False)
        log_dir = trainer.log_dir  # on every process: it asks the first one
        if trainer.is_global_zero and log_dir:
            _print_places(Path(log_dir), [Path(path) for path in paths if path])

    def after_predict(self) -> None:
        """Print where the predictions are."""
        trainer: Any = self.trainer
        for writer in trainer.callbacks:
            if isinstance(writer, ours.PredictionWriter) and trainer.is_global_zero:
                print(f"predictions  {writer.path}")
                for sheet in writer.sheets if isinstance(writer, ours.PictureWriter) else ():
                    print(f"sheet        {sheet}")


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _is_default(part: Recorded) -> bool:
    parameters = inspect.signature(type(part)).parameters
    return all(value == parameters[name].default for name, value in part.init_arguments().items())


# -------------------------------------------------------------------- arguments


def _with_config_files(argv: list[str]) -> list[str]:
    """Replace names of packaged configs by their paths, and pipes by what they hold; inline YAML stays."""
    for position, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        place = position if equals else position + 1
        if option in ("--config", "-c") and place < len(argv):
            value = value or argv[place]
            if not set(value) & set(":{\n"):
                found = find_config(value)
                content = found.read_text()
                check_yaml(content, value)
                text = str(found) if found.is_file() else content  # a pipe can be read once
                argv[place] = f"{option}={text}" if equals else text
    return argv


def _resumed_version(path: str | None, root: Path) -> int | None:
    """Return the number of the run under ``root`` that ends with this checkpoint, or ``None`` if there is no such run.

    Raises:
        ConfigurationError: Another process is still writing to the run.
    """
    checkpoint = Path(path or "").absolute()
    run = checkpoint.parent.parent
    number = run.name.removeprefix("version_")
    if run.parent != (root / RUNS).absolute() or not number.isdigit():
        return None
    if checkpoint not in newest_first("last", [(run, checkpoint.parent.name)])[:1]:
        return None
    if is_locked(checkpoint.parent):
        raise ConfigurationError(f"--ckpt_path {path}: another process is writing to this run. Stop it, or wait.")
    return int(number)


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


def _print_places(log_dir: Path, checkpoints: list[Path]) -> None:
    places = [("checkpoint", path) for path in checkpoints]
    places += [("metrics", log_dir / "metrics.csv"), ("figures", log_dir / "figures")]
    for what, path in places:
        if path.exists():
            print(f"{what:<12}{os.path.relpath(path)}")


def _interruption(trainer: Any) -> str:
    """Say where an interrupted run stands."""
    kept = [] if trainer is None else [c for c in trainer.callbacks if isinstance(c, ours.LastCheckpoint)]
    paths = [Path(callback.best_model_path) for callback in kept if callback.best_model_path]
    if not paths:
        return "interrupted; no checkpoint was kept yet"
    step = read_checkpoint(paths[0])["global_step"]
    return f"interrupted; {os.path.relpath(paths[0])} holds step {step}: resume with --ckpt_path last"


def run(argv: list[str]) -> int:
    """Run a command and return its exit code, see :func:`intff_lightning.cli.main`."""
    quiet()
    cli = IntFFCLI.__new__(IntFFCLI)  # apart from its constructor, which runs the command and may not return
    called = {name: without for name, without in IntFFCLI.subcommands().items() if argv[:1] == [name]}
    if called:  # the parsers of all subcommands take a tenth of a second more
        cli.subcommands = lambda: called  # type: ignore[method-assign]
    parser = {"prog": "intff", "description": DESCRIPTION, "formatter_class": _Help}
    try:
        IntFFCLI.__init__(
            cli,
            Network,
            PairedDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=_Parser,
            parser_kwargs=parser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=argv,
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        trainer = vars(cli).get("trainer")  # Lightning turns a Ctrl-C into a plain exit
        if isinstance(stop, KeyboardInterrupt) or (trainer is not None and trainer.interrupted):
            sys.stderr.write(f"{_interruption(trainer)}\n")
            return 143 if isinstance(stop, SIGTERMException) else 130
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {explain(error)}", markup=False)
        return 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # its threads may abort while the interpreter ends
    return 0
