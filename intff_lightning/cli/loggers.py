"""Loggers of a run: a table that survives an interruption, and errors that name the file."""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from intff_lightning.files import storing, storing_events

Row = Mapping[str, float]


class ResumableCSVLogger(CSVLogger):
    """Writes every row of ``metrics.csv`` at once, and keeps the rows of a run that is resumed.

    Lightning's own logger holds rows back, which a killed run loses, and deletes the file that it finds. Rows from
    ``resume_step`` on are written again. ``row`` is the row that follows the checkpoint. If its validation is repeated,
    the step before has so many rows of earlier ``validations``; ``None`` keeps them all.
    """

    def __init__(
        self,
        root: Path,
        version: int | None = None,
        resume_step: int | None = None,
        row: Row | None = None,
        validations: int | None = None,
    ) -> None:
        super().__init__(root, version=version, flush_logs_every_n_steps=1)
        self._kept: list[dict[str, Any]] = []
        if resume_step is None:
            return  # and nobody has asked for the version yet, whose folder another run may make first
        path = Path(self.log_dir) / "metrics.csv"
        if path.is_file():
            text = path.read_text()
            rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # a full disk may cut the last row
            earlier = [each for each in rows if each["step"].isdigit() and int(each["step"]) < resume_step]
            self._kept = [{name: value for name, value in each.items() if value} for each in earlier]
            if validations is not None:
                repeated = [each for each in self._kept if _is_validation(each, resume_step - 1)][validations:]
                self._kept = [each for each in self._kept if each not in repeated]
            following = {name: str(value) for name, value in (row or {}).items()}
            if following and following not in self._kept:
                self._kept.append(following)

    def save(self) -> None:
        with storing(Path(self.log_dir) / "metrics.csv"):
            super().save()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, with the rows that the run had before its checkpoint."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")  # rows are kept
            writer: Any = super().experiment
        if self._kept:
            writer.metrics, self._kept = self._kept, []
            writer.save()
        return writer


def _is_validation(row: Mapping[str, str], step: int) -> bool:
    """Tell whether a row holds the metrics of a validation after this step."""
    return row["step"] == str(step) and any(name.startswith("val/") for name in row)


class EventLogger(TensorBoardLogger):
    """A TensorBoardLogger that names its file if it cannot be written: a thread writes it, and its error does not."""

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        with storing_events(self):
            super().log_metrics(metrics, step)

    def save(self) -> None:
        with storing_events(self):
            super().save()

    def finalize(self, status: str) -> None:
        with storing_events(self):
            super().finalize(status)
