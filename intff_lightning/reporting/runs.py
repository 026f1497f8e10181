"""The log folder of a run: where it is, its metrics and its configuration."""

import csv
from collections import defaultdict
from pathlib import Path

from intff_lightning.errors import ConfigurationError

History = dict[str, list[tuple[int, float]]]
"""Values of each metric, as ``(epoch, value)``; the first epoch is 1."""


def read_metrics(path: Path) -> History:
    """Return the last value of every metric in every epoch of a ``metrics.csv``.

    Raises:
        ConfigurationError: The file is no table of Lightning's CSVLogger.
    """
    epochs: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        *lines, _ = path.read_text().split("\n")  # a line that a run is just writing has no end yet
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    epochs[name][int(row["epoch"]) + 1] = float(value)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{path} is no metrics.csv of Lightning's CSVLogger.") from None
    return {name: sorted(values.items()) for name, values in epochs.items()}


def run_folder(folder: Path) -> Path:
    """Return the folder itself, or the newest run in it. Trainings come before tests.

    Raises:
        ConfigurationError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}.")

    def written(run: Path) -> float:
        """Return when the run last wrote, which a report does not change; 0 for a folder of no run."""
        files = [run / "metrics.csv", *(run / "checkpoints").glob("*.ckpt")]
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)

    if written(folder):
        return folder
    runs = [*folder.glob("version_*"), *folder.glob("*/version_*")]
    newest = max(runs, key=lambda run: (any((run / "checkpoints").glob("*.ckpt")), written(run)), default=folder)
    if not written(newest):
        raise ConfigurationError(
            f"{folder} is no log folder of a run: there is neither metrics.csv nor checkpoints in it.\n"
            "Name one, lightning_logs/version_0 for example."
        )
    return newest


def config_file(folder: Path) -> Path | None:
    """Return the file with the configuration of a run, or ``None`` if it has none."""
    return next((folder / name for name in ("config.yaml", "hparams.yaml") if (folder / name).is_file()), None)
