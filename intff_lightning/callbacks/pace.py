"""How fast a run trains, and when it will end."""

import contextlib
import math
import time
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size

from intff_lightning.pairs import PairedBatch, data_share


class Pace:
    """Images per second of an epoch so far, and the time until the last epoch ends at the pace of the run so far."""

    def __init__(self, trainer: L.Trainer) -> None:
        self._trainer = trainer
        self._begun, self._batches = time.perf_counter(), 0
        self._resumed = trainer.current_epoch, trainer.fit_loop.batch_idx + 1
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start the clock of an epoch."""
        self._epoch, self._images = time.perf_counter(), 0

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began."""
        return time.perf_counter() - self._epoch

    @property
    def whole(self) -> float:
        """Seconds since training began or resumed."""
        return time.perf_counter() - self._begun

    def count(self, batch: Any) -> None:
        """Count the images of a batch that is done."""
        if isinstance(batch, PairedBatch):
            self._images += len(batch.target)
        else:
            with contextlib.suppress(MisconfigurationException):  # there is no tensor in it: the number is not known
                self._images += extract_batch_size(batch)
        self._batches += 1

    def texts(self) -> list[str]:
        """Return both as texts, as far as they are known."""
        images, seconds = self._images * data_share(self._trainer)[1], self.seconds
        texts = [f"{images / seconds:,.0f} images/s"] if images and seconds else []
        epochs, batches = self._trainer.max_epochs or -1, self._trainer.num_training_batches
        if epochs > 0 and math.isfinite(batches) and self._batches:
            epoch, batch = self._resumed
            more = max(0, int(batches) * (epochs - epoch) - batch - self._batches)
            left = round(self.whole / self._batches * more)
            texts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        return texts
