"""UnitProgress: a progress bar that shows every unit."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from intff_lightning.callbacks.pace import Pace
from intff_lightning.reporting.tables import epoch_name, epoch_text, metric_texts, result_table


class UnitProgress(ProgressBar):
    """Shows batches, loss, accuracy, images per second and remaining time, and the units' table of the last validation.

    The bar disappears when it is done; after training, the last epoch's line stays.

    Args:
        console: Console of rich; ``None`` is standard output.
        refresh_per_second: How often the terminal is drawn.
    """

    def __init__(self, console: Console | None = None, refresh_per_second: float = 4.0) -> None:
        super().__init__()
        self.console, self.refresh_per_second = console, refresh_per_second
        self._enabled = True
        self._live: Live | None = None
        self._pace: Pace | None = None
        self._pace_text = Text()
        self._validated = False

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    # ---------------------------------------------------------------- training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pace = Pace(trainer)
        self._start("training", self.total_train_batches)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._live is None or self._pace is None:
            return
        self._pace.begin_epoch()
        self._validated = False
        self._bar.reset(self._task, total=_finite(self.total_train_batches))
        self._bar.update(self._task, description=epoch_name(trainer), facts="  ".join(metric_texts(trainer)))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._live is None or self._pace is None:
            return
        self._pace.count(batch)
        self._bar.update(self._task, completed=batch_idx + 1)
        if batch_idx % 10 == 0:  # reading the metrics costs more than the bar
            self._bar.update(self._task, facts="  ".join(metric_texts(trainer)))
            self._pace_text.plain = "  ".join(self._pace.texts())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._live is not None and self._pace is not None:
            self._stop()
            text = epoch_text(trainer, self._pace.seconds, self._validated, last=True)
            (self.console or Console()).print(text, highlight=False)

    # ---------------------------------------------------------------- evaluation and prediction

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar of a separate validation."""
        if trainer.state.fn == "validate":
            self._start("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == "validate":
            self._advance()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._stop()
        elif self._live is not None and not trainer.sanity_checking:
            self._validated = True
            self._live.update(Group(self._bar, self._pace_text, result_table(trainer, "val")))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start("test", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start("prediction", sum(trainer.num_predict_batches))

    # ---------------------------------------------------------------- the terminal

    def _start(self, name: str, total: int | float) -> None:
        self._stop()
        if not self._enabled:
            return
        console = self.console or Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20 if console.width < 120 else 40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
        )
        self._task = self._bar.add_task(name, total=_finite(total), facts="")
        self._pace_text = Text()
        shown = Group(self._bar, self._pace_text) if name == "training" else self._bar
        self._live = Live(shown, console=console, refresh_per_second=self.refresh_per_second, transient=True)
        self._live.start()

    def _advance(self, *_: Any, **__: Any) -> None:
        if self._live is not None:
            self._bar.advance(self._task)

    def _stop(self, *_: Any, **__: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    on_test_batch_end = on_predict_batch_end = _advance
    on_test_end = on_predict_end = on_exception = _stop


def _finite(total: int | float) -> float | None:
    return total if math.isfinite(total) else None
