"""Going on with a run that was stopped: its checkpoint found, its folder and its table of metrics continued."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger

from intff_lightning.errors import CheckpointError

__all__ = ["ResumableCSVLogger", "find_checkpoint", "log_root", "read_checkpoint", "resumed_version"]

_RUNS = "lightning_logs"


def log_root(argv: list[str]) -> Path:
    """Folder of the logs that a command line asks for, without parsing the rest of it."""
    root = "."
    for position, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        value = value or (argv[position + 1] if position + 1 < len(argv) else "")
        if name == "--config" and Path(value).is_file():
            config = yaml.safe_load(Path(value).read_text())
            trainer = config.get("trainer") if isinstance(config, dict) else None
            root = (trainer or {}).get("default_root_dir") or root
        elif name == "--trainer.default_root_dir":
            root = value
    return Path(root)


def find_checkpoint(name: str, root: Path) -> Path | None:
    """The newest ``last.ckpt`` or ``best.ckpt`` of all runs under ``root``; ``None`` where there is none.

    Args:
        name: ``last`` or ``best``.
        root: folder of the logs.
    """
    found = (root / _RUNS).glob(f"version_*/checkpoints/{name}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def resumed_version(path: str | Path | None, root: Path) -> int | None:
    """Number of the run under ``root`` whose ``last.ckpt`` this is, and goes on in its folder; of others ``None``."""
    path = Path(path or "").absolute()
    run = path.parent.parent
    number = run.name.removeprefix("version_")
    if path.name == "last.ckpt" and run.parent == (root / _RUNS).absolute() and number.isdigit():
        return int(number)
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU.

    Raises:
        CheckpointError: the file is no checkpoint, or is damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"]
    except Exception as error:  # whatever a damaged file makes of torch's reader
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged ({reason}).") from None
    return checkpoint


class ResumableCSVLogger(CSVLogger):
    """Writes every row of ``metrics.csv`` at once, and keeps the rows of a run that is resumed.

    Lightning's own holds rows back, which a killed run loses, and deletes the file that it finds.

    Args:
        save_dir: folder of the logs.
        version: number of the run; ``None`` is the next.
        resume_step: ``global_step`` of the checkpoint that is gone on with; later rows are written again.
        epoch_row: the row that was to follow a checkpoint of an epoch's end, in case it is missing.
    """

    def __init__(
        self,
        save_dir: str | Path,
        version: int | None = None,
        resume_step: int | None = None,
        epoch_row: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(save_dir, version=version, flush_logs_every_n_steps=1)
        self._kept: list[dict[str, Any]] = []
        path = Path(self.log_dir) / "metrics.csv"
        if resume_step is not None and path.is_file():
            rows = csv.DictReader(path.read_text().splitlines())
            earlier = [row for row in rows if row["step"].isdigit() and int(row["step"]) < resume_step]
            self._kept = [{name: value for name, value in row.items() if value} for row in earlier]
            row = {name: str(value) for name, value in (epoch_row or {}).items()}
            if row.get("step") == str(resume_step - 1) and row not in self._kept:
                self._kept.append(row)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, with the rows that the run had before its checkpoint."""
        writer: Any = super().experiment
        if self._kept:
            writer.metrics, self._kept = self._kept, []
            writer.save()
        return writer
