"""TrainingFigures: pictures of a run, drawn as it goes or when it ends."""

import io
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.errors import ConfigurationError
from intff_lightning.pairs import PairedBatch, image_and_target
from intff_lightning.units import UnitStack

__all__ = ["TrainingFigures"]

_PAIRS, _FIELDS, _WRONG = 10, 128, 24


class _Seen:
    """What an evaluation's figures are drawn from, of this process's share of the data."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.count = 0
        self.positive: list[Tensor] = []  # (U, B) each
        self.negative: list[Tensor] = []  # (U, B * k)
        self.pairs: dict[str, Tensor] = {}
        self.wrong: list[tuple[float, Tensor, int, Tensor]] = []  # margin, image, target, scores (C,)

    def add(self, outputs: Any, batch: Any, scores: Tensor | None) -> None:
        """Take a batch in.

        Args:
            outputs: of the module's step.
            batch: that it was given.
            scores: ``(B, C)`` of the vote.
        """
        pairs = isinstance(outputs, Mapping) and "positive_goodness" in outputs
        if pairs and self.count < self.samples:
            self.positive.append(outputs["positive_goodness"].detach().float().cpu())
            self.negative.append(outputs["negative_goodness"].detach().flatten(1).float().cpu())
            self.count += self.positive[-1].shape[1]
        if pairs and not self.pairs and isinstance(batch, PairedBatch):
            positive, negative = batch.positive, batch.negative
            k = len(negative) // len(batch.target)
            lines = {"image": batch.image, "positive": positive, "negative": negative[:: max(1, k)]}
            self.pairs = {name: line[:_PAIRS].detach().cpu() for name, line in lines.items() if len(line)}
        if scores is not None:
            image, target = image_and_target(batch)
            missed = (scores.argmax(1) != target).nonzero().flatten()
            margin = (scores.amax(1) - scores.gather(1, target.unsqueeze(1)).squeeze(1))[missed].tolist()
            rows = zip(margin, image[missed].cpu(), target[missed].tolist(), scores[missed].cpu(), strict=True)
            self.wrong = sorted([*self.wrong, *rows], key=lambda row: -row[0])[:_WRONG]


class TrainingFigures(Callback):
    """Draws ``figures/*.png`` in the log folder, and into TensorBoard where that is a logger.

    When training ends, over its epochs: ``local_loss`` (the paper's Figure 3), ``goodness``, ``accuracy``. After a
    test, or a validation of its own: ``goodness_histograms`` per unit with the threshold, ``accuracy_by_unit``,
    ``confusion_matrix``, ``receptive_fields`` of the first layer, ``wrong_predictions`` with the score of every label,
    and ``input_pairs`` as the network sees them. What a network does not have is left out. The curves' values are in
    the checkpoint, so a resumed run draws the whole of them. Of several processes the first draws, its own samples.

    Accuracies are those of a :class:`~intff_lightning.callbacks.GoodnessAccuracy` among the trainer's callbacks.

    Args:
        every_n_epochs: draw during training too, after the validation of every n-th epoch.
        format: of the files.
        samples: whose goodness the histograms hold at most.
        folder: of the files; ``None`` is ``figures`` in the run's log folder.

    Raises:
        ConfigurationError: ``every_n_epochs`` is below 1.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        format: Literal["png", "svg", "pdf"] = "png",
        samples: int = 10_000,
        folder: str | None = None,
    ) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ConfigurationError(f"TrainingFigures(every_n_epochs={every_n_epochs}): 1 or more is needed.")
        self.every_n_epochs, self.format, self.samples, self.folder = every_n_epochs, format, samples, folder
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._seen = _Seen(0)
        self._validated = False

    # ---------------------------------------------------------------- curves

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the epoch's metrics."""
        for name, value in trainer.callback_metrics.items():
            if self._validated or not name.startswith("val/"):  # Lightning keeps those of earlier epochs
                self.history[name].append((trainer.current_epoch + 1, float(value)))
        self._validated = False
        if self._due(trainer):
            self._draw_curves(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        self._draw_curves(trainer)

    def _due(self, trainer: L.Trainer) -> bool:
        return self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _draw_curves(self, trainer: L.Trainer) -> None:
        place = self._place(trainer)
        if place is not None and self.history:
            from intff_lightning.drawing import training_curves  # matplotlib, only where it is needed

            for name, figure in training_curves(self.history).items():
                self._save(trainer, place, name, figure)

    # ---------------------------------------------------------------- an evaluation

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start anew."""
        wanted = trainer.state.fn != "fit" or (self._due(trainer) and not trainer.sanity_checking)
        self._seen = _Seen(self.samples if wanted else 0)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch."""
        if self._seen.samples and trainer.is_global_zero:
            accuracy = _accuracy(trainer)
            scores = None if accuracy is None else accuracy.scores(pl_module, batch)
            self._seen.add(outputs, batch, None if scores is None else scores[0])

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the validation, where it is wanted."""
        self._validated = not trainer.sanity_checking
        self._draw_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test."""
        self._draw_evaluation(trainer, pl_module, "test")

    def _draw_evaluation(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        place = self._place(trainer)
        seen, self._seen = self._seen, _Seen(0)
        if place is None or not seen.samples:
            return
        from intff_lightning import drawing

        where = {"val": "validation", "test": "test"}[stage]
        if seen.positive:
            positive, negative = torch.cat(seen.positive, 1), torch.cat(seen.negative, 1)
            thresholds = [_threshold(unit.loss) for unit in _units(module)]
            figure = drawing.goodness_histograms(f"Goodness of {where} data", positive, negative, thresholds)
            self._save(trainer, place, "goodness_histograms", figure)
        accuracy = _accuracy(trainer)
        if accuracy is not None and stage in accuracy.confusion:
            counts = accuracy.confusion[stage]
            vote = 100 * float(counts.diagonal().sum() / counts.sum())
            title = f"{where.capitalize()} accuracy {vote:.2f} %"
            self._save(trainer, place, "confusion_matrix", drawing.confusion_matrix(title, counts))
            units = _by_unit(trainer.callback_metrics, f"{stage}/accuracy/unit_")
            if units:
                figure = drawing.accuracy_by_unit(title, units, vote, getattr(module, "vote", []))
                self._save(trainer, place, "accuracy_by_unit", figure)
            if seen.wrong:
                _, image, target, scores = zip(*seen.wrong, strict=True)
                missed = int(counts.sum() - counts.diagonal().sum())
                title = f"{len(image)} of {missed} {where} images with a wrong label ahead, the surest ones"
                what = "goodness" if units else "score"
                figure = drawing.wrong_predictions(
                    title, torch.stack(image), torch.tensor(target), torch.stack(scores), what
                )
                self._save(trainer, place, "wrong_predictions", figure)
        # by class, no label and no negative is shown
        if len(seen.pairs) > 1 and not getattr(module, "by_class", False) and seen.pairs["image"].ndim == 4:
            title = f"What the network is shown ({where} data)"
            figure = drawing.input_pairs(title, seen.pairs, seen.pairs["image"].shape[1])
            self._save(trainer, place, "input_pairs", figure)
        fields = first_layer_fields(module)
        if fields is not None:
            largest = fields.flatten(1).norm(dim=1).argsort(descending=True)[:_FIELDS]
            title = f"First layer: weights of {len(largest)} of {len(fields)} neurons, the largest ones"
            self._save(trainer, place, "receptive_fields", drawing.receptive_fields(title, fields[largest]))

    # ---------------------------------------------------------------- files

    def _place(self, trainer: L.Trainer) -> Path | None:
        """Where the figures of this run lie; ``None`` without a log folder, and on other processes than the first."""
        log_dir = trainer.log_dir  # once, on every process: it asks the first one
        quick = getattr(trainer, "fast_dev_run", False)  # set by one of its connectors
        if not trainer.is_global_zero or quick:
            return None
        if self.folder is not None:
            return Path(self.folder)
        return None if log_dir is None else Path(log_dir) / "figures"

    def _save(self, trainer: L.Trainer, place: Path, name: str, figure: Any) -> None:
        from intff_lightning import drawing

        path = place / f"{name}.{self.format}"
        drawing.save(figure, path)
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if boards:
            from matplotlib.image import imread

            picture: Any = path
            if self.format != "png":  # which need not be drawn again
                picture = io.BytesIO()
                figure.savefig(picture, dpi=150, format="png")
                picture.seek(0)
            pixels = imread(picture, format="png")[..., :3]
            for logger in boards:
                logger.experiment.add_image(f"figures/{name}", pixels, trainer.global_step, dataformats="HWC")

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"history": dict(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's curves."""
        self.history = defaultdict(list, {n: [tuple(p) for p in v] for n, v in state_dict["history"].items()})


def _accuracy(trainer: L.Trainer) -> GoodnessAccuracy | None:
    run: Any = trainer  # its connectors add the list of callbacks
    return next((callback for callback in run.callbacks if isinstance(callback, GoodnessAccuracy)), None)


def _units(module: Any) -> UnitStack | tuple[()]:
    """Hidden units, of a module that has them; a user's own attribute of the name may be anything."""
    units = getattr(module, "units", None)
    return units if isinstance(units, UnitStack) else ()


def _threshold(loss: Any) -> float | None:
    used = getattr(loss, "threshold_weight", 1.0) > 0
    return getattr(loss, "threshold", None) if used else None


def _by_unit(metrics: Mapping[str, Any], prefix: str) -> list[float]:
    """Percent of every unit."""
    values: list[float] = []
    while f"{prefix}{len(values)}" in metrics:
        values.append(100 * float(metrics[f"{prefix}{len(values)}"]))
    return values


def first_layer_fields(module: Any) -> Tensor | None:
    """Weights of the first layer as images ``(N, C, H, W)``; ``None`` where they cannot be seen as images."""
    shape = tuple(module.hparams.get("input_shape") or ())
    first = next(iter(_units(module)), module)
    weight = next((parameter.detach() for parameter in first.parameters() if parameter.ndim in (2, 4)), None)
    if weight is None or len(shape) != 3:
        return None
    if weight.ndim == 4:
        return weight if min(weight.shape[-2:]) > 1 else None
    if hasattr(module, "encoder"):  # tokens, say, are no image
        with torch.no_grad():
            label = torch.zeros(1, dtype=torch.int64, device=weight.device)
            seen = module.encoder(torch.zeros(1, *shape, device=weight.device), label).shape[1:]
        if len(seen) != 3 or seen[1:] != shape[1:] or seen.numel() != weight.shape[1]:
            return None
    return weight[:, : math.prod(shape)].unflatten(1, shape) if weight.shape[1] >= math.prod(shape) else None
