"""Figures and tables in every logger that can show them: TensorBoard, Weights & Biases, MLflow and Comet.

Only public interfaces are used, and a logger's package is imported only where a run uses it.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from intff_lightning.files import storing_events
from intff_lightning.reporting.tables import markdown_table

if TYPE_CHECKING:
    from PIL.Image import Image


class Board:
    """A logger that can show more than numbers. Names are paths, such as ``figures/accuracy``."""

    def show_figure(self, name: str, picture: "Image", step: int) -> None:
        """Show a picture."""
        raise NotImplementedError

    def show_table(self, name: str, lines: Sequence[Sequence[str]], step: int) -> None:
        """Show a table, whose first line is the head."""
        raise NotImplementedError

    def show_confusion(self, name: str, title: str, counts: Tensor, step: int) -> None:
        """Show counts ``(C, C)``, with true classes in rows; by default as a table."""
        head = ["true class", *(f"predicted {label}" for label in range(len(counts)))]
        self.show_table(name, [head, *([str(k), *map(str, row)] for k, row in enumerate(counts.tolist()))], step)


class TensorBoardBoard(Board):
    """Images and texts of TensorBoard."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.logger = logger

    def show_figure(self, name: str, picture: "Image", step: int) -> None:
        import numpy as np

        with storing_events(self.logger):
            self.logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def show_table(self, name: str, lines: Sequence[Sequence[str]], step: int) -> None:
        with storing_events(self.logger):
            self.logger.experiment.add_text(name, markdown_table(lines[0], lines[1:]), step)


class WandbBoard(Board):
    """Images, tables and the confusion matrix of Weights & Biases."""

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def show_figure(self, name: str, picture: "Image", step: int) -> None:
        self.logger.log_image(name, [picture], step)

    def show_table(self, name: str, lines: Sequence[Sequence[str]], step: int) -> None:
        self.logger.log_table(name, list(lines[0]), [list(line) for line in lines[1:]], step=step)

    def show_confusion(self, name: str, title: str, counts: Tensor, step: int) -> None:
        import wandb

        columns: list[str | int] = [
            "Actual",
            "Predicted",
            "nPredictions",
        ]  # those of wandb.plot.confusion_matrix, which takes samples
        rows = [[str(i), str(k), count] for i, row in enumerate(counts.tolist()) for k, count in enumerate(row)]
        chart = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=rows),
            {str(column): str(column) for column in columns},
            {"title": title},
        )
        self.logger.experiment.log({name: chart, "trainer/global_step": step})


class MLFlowBoard(Board):
    """Images by step, and tables as artifacts, of MLflow."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self.logger = logger

    def show_figure(self, name: str, picture: "Image", step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, picture, key=name, step=step)

    def show_table(self, name: str, lines: Sequence[Sequence[str]], step: int) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        self.logger.experiment.log_text(self.logger.run_id, text.getvalue(), f"{name}.csv")


class CometBoard(Board):
    """Images, tables and the confusion matrix of Comet."""

    def __init__(self, logger: CometLogger) -> None:
        self.logger = logger

    def show_figure(self, name: str, picture: "Image", step: int) -> None:
        self.logger.experiment.log_image(picture, name=name, step=step)

    def show_table(self, name: str, lines: Sequence[Sequence[str]], step: int) -> None:
        self.logger.experiment.log_table(f"{name}.csv", [list(line) for line in lines[1:]], list(lines[0]))

    def show_confusion(self, name: str, title: str, counts: Tensor, step: int) -> None:
        labels = [str(label) for label in range(len(counts))]
        self.logger.experiment.log_confusion_matrix(
            matrix=counts.tolist(), labels=labels, title=title, step=step, file_name=f"{name}.json"
        )


_BOARDS = {
    TensorBoardLogger: TensorBoardBoard,
    WandbLogger: WandbBoard,
    MLFlowLogger: MLFlowBoard,
    CometLogger: CometBoard,
}


def boards(loggers: Iterable[Logger]) -> list[Board]:
    """Return the loggers that can show figures and tables."""
    return [make(logger) for logger in loggers for kind, make in _BOARDS.items() if isinstance(logger, kind)]
