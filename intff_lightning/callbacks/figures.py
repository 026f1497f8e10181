"""TrainingFigures: pictures of a run, drawn as it goes or when it ends."""

import io
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import ConfigurationError
from intff_lightning.network import Network, StepOutput
from intff_lightning.pairs import PairedBatch, image_and_target
from intff_lightning.reporting.loggers import Board, boards
from intff_lightning.reporting.tables import result_rows, unit_rows

_PAIRS, _FIELDS, _WRONG = 10, 128, 24


class _Seen:
    """What the figures of an evaluation are drawn from: this process's share of the data."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.count = 0
        self.positive: list[Tensor] = []  # (U, B) each
        self.negative: list[Tensor] = []  # (U, B * k)
        self.pairs: dict[str, Tensor] = {}
        self.wrong: list[tuple[float, Tensor, int, Tensor]] = []  # margin, image, target, scores (C,)

    def add_goodness(self, outputs: StepOutput) -> None:
        if self.count < self.samples:
            self.positive.append(outputs.positive_goodness.float().cpu())
            self.negative.append(outputs.negative_goodness.flatten(1).float().cpu())
            self.count += self.positive[-1].shape[1]

    def add_inputs(self, module: LabelClassifier, batch: PairedBatch) -> None:
        if not self.pairs:
            first = PairedBatch(*(None if part is None else part[:_PAIRS] for part in batch))  # type: ignore[arg-type]
            positive, negative = module.encoder.positive(first), module.encoder.negative(first)
            k = len(negative) // len(first.target)
            lines = {"image": first.image, "positive": positive, "negative": negative[:: max(1, k)]}
            self.pairs = {name: line.detach().cpu() for name, line in lines.items() if len(line)}

    def add_scores(self, module: L.LightningModule, batch: Any, scores: Tensor) -> None:
        """Keep the surest mistakes, from scores ``(B, C)``."""
        image, target = image_and_target(batch, module)
        missed = (scores.argmax(1) != target).nonzero().flatten()
        margin = (scores.amax(1) - scores.gather(1, target.unsqueeze(1)).squeeze(1))[missed].tolist()
        rows = zip(margin, image[missed].cpu(), target[missed].tolist(), scores[missed].cpu(), strict=True)
        self.wrong = sorted([*self.wrong, *rows], key=lambda row: -row[0])[:_WRONG]


@dataclass
class _Places:
    """Where figures go: a folder, if there is one, and loggers."""

    folder: Path | None
    boards: list[Board]


class TrainingFigures(EvaluationCallback):
    """Draws ``figures/*.png`` in the log folder, and into TensorBoard, Weights & Biases, MLflow and Comet.

    When training ends: ``local_loss`` (the paper's Figure 3), ``goodness``, ``accuracy`` and ``r2`` over epochs. After
    a test or a separate validation: ``goodness_histograms`` per unit with the threshold, ``accuracy_by_unit``,
    ``confusion_matrix``, ``receptive_fields`` of the first layer, ``wrong_predictions`` with the score of every label,
    and ``input_pairs`` as the network sees them. What a network does not have is left out. A checkpoint keeps the
    values of the curves, so a resumed run draws all of them. The first of several processes draws its own samples.

    The loggers also get tables after a test or a separate validation: the results, the units, and the confusion matrix.

    Accuracies are those of a :class:`~intff_lightning.callbacks.GoodnessAccuracy` among the Trainer's callbacks.

    Args:
        every_n_epochs: Also draw during training, after the validation of every n-th epoch.
        format: Format of the files.
        samples: Largest number of samples in the histograms.
        folder: Folder of the files; ``None`` is ``figures`` in the run's log folder.

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
        for name, value in trainer.callback_metrics.items():
            if self._validated or not name.startswith("val/"):  # Lightning keeps those of earlier epochs
                points, epoch = self.history[name], trainer.current_epoch + 1
                if points and points[-1][0] == epoch:  # max_steps had cut the epoch short, and the run resumed
                    points.pop()
                points.append((epoch, float(value)))
        self._validated = False
        if self._due(trainer):
            self._draw_curves(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw_curves(trainer)

    def _due(self, trainer: L.Trainer) -> bool:
        return self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _draw_curves(self, trainer: L.Trainer) -> None:
        places = self._places(trainer)
        if places is not None and self.history:
            from intff_lightning.reporting.plots import training_curves  # matplotlib, only where it is needed

            for name, figure in training_curves(self.history).items():
                self._save(trainer, places, name, figure)

    # ---------------------------------------------------------------- an evaluation

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        wanted = trainer.state.fn != "fit" or (self._due(trainer) and not trainer.sanity_checking)
        self._seen = _Seen(self.samples if wanted else 0)

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        if not self._seen.samples or not trainer.is_global_zero:
            return
        if isinstance(outputs, StepOutput):
            self._seen.add_goodness(outputs)
        if isinstance(module, LabelClassifier) and isinstance(batch, PairedBatch) and not module.by_class:
            self._seen.add_inputs(module, batch)
        accuracy = _accuracy(trainer)
        scores = None if accuracy is None else accuracy.scores(module, batch)
        if scores is not None:
            self._seen.add_scores(module, batch, scores[0])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = not trainer.sanity_checking
        self._draw_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw_evaluation(trainer, pl_module, "test")

    def _draw_evaluation(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        places = self._places(trainer)
        seen, self._seen = self._seen, _Seen(0)
        if places is None or not seen.samples:
            return
        from intff_lightning.reporting import plots

        network = module if isinstance(module, LabelClassifier) else None
        where = {"val": "validation", "test": "test"}[stage]
        figures: dict[str, Any] = {}
        if seen.positive:
            positive, negative = torch.cat(seen.positive, 1), torch.cat(seen.negative, 1)
            thresholds = [unit.loss.threshold for unit in network.units] if network else []
            title = f"Goodness of {where} data"
            figures["goodness_histograms"] = plots.goodness_histograms(title, positive, negative, thresholds)
        accuracy = _accuracy(trainer)
        if accuracy is not None and stage in accuracy.confusion:
            counts = accuracy.confusion[stage]
            vote = 100 * float(counts.diagonal().sum() / counts.sum())
            title = f"{where.capitalize()} accuracy {vote:.2f} %"
            figures["confusion_matrix"] = plots.confusion_matrix(title, counts)
            for board in places.boards:
                board.show_confusion("tables/confusion_matrix", title, counts, trainer.global_step)
            units = _by_unit(trainer.callback_metrics, f"{stage}/accuracy/unit_")
            if units:
                voting = network.vote if network else []
                figures["accuracy_by_unit"] = plots.accuracy_by_unit(title, units, vote, voting)
            if seen.wrong:
                _, image, target, scores = zip(*seen.wrong, strict=True)
                missed = int(counts.sum() - counts.diagonal().sum())
                title = f"{len(image)} of {missed} {where} images with a wrong label ahead, the surest ones"
                figures["wrong_predictions"] = plots.wrong_predictions(
                    title,
                    torch.stack(image),
                    torch.tensor(target),
                    torch.stack(scores),
                    "goodness" if units else "score",
                )
        if len(seen.pairs) > 1 and seen.pairs["image"].ndim == 4:
            title = f"What the network is shown ({where} data)"
            figures["input_pairs"] = plots.input_pairs(title, seen.pairs, seen.pairs["image"].shape[1])
        fields = first_layer_fields(module)
        if fields is not None:
            largest = fields.flatten(1).norm(dim=1).argsort(descending=True)[:_FIELDS]
            title = f"First layer: weights of {len(largest)} of {len(fields)} neurons, the largest ones"
            figures["receptive_fields"] = plots.receptive_fields(title, fields[largest])
        for name, figure in figures.items():
            self._save(trainer, places, name, figure)
        tables = {stage: result_rows(trainer.callback_metrics, stage, network.vote if network else [])}
        if isinstance(module, Network):
            tables["units"] = unit_rows(module)
        for name, (head, *lines) in tables.items():
            titles = [title.replace("\n", " ") or "part" for title in head]
            for board in places.boards:
                board.show_table(f"tables/{name}", [titles, *lines], trainer.global_step)

    # ---------------------------------------------------------------- files and loggers

    def _places(self, trainer: Any) -> _Places | None:
        """Return where figures go, or ``None`` if they go nowhere, and on all processes but the first."""
        log_dir = trainer.log_dir  # on every process: it asks the first one
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return None
        folder = Path(self.folder) if self.folder is not None else Path(log_dir) / "figures" if log_dir else None
        shown = boards(trainer.loggers)
        return None if folder is None and not shown else _Places(folder, shown)

    def _save(self, trainer: L.Trainer, places: _Places, name: str, figure: Any) -> None:
        from intff_lightning.reporting import plots

        data = None
        if places.folder is not None:
            path = places.folder / f"{name}.{self.format}"
            plots.save(figure, path)
            if self.format == "png":  # a PNG need not be drawn again
                data = path.read_bytes()
        if places.boards:
            from PIL import Image

            picture = Image.open(io.BytesIO(data or plots.encode(figure, "png"))).convert("RGB")
            for board in places.boards:
                board.show_figure(f"figures/{name}", picture, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"history": dict(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = defaultdict(list, {n: [tuple(p) for p in v] for n, v in state_dict["history"].items()})


def _accuracy(trainer: Any) -> GoodnessAccuracy | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, GoodnessAccuracy)), None)


def _by_unit(metrics: Mapping[str, Any], prefix: str) -> list[float]:
    """Return the percentages of the units."""
    values: list[float] = []
    while f"{prefix}{len(values)}" in metrics:
        values.append(100 * float(metrics[f"{prefix}{len(values)}"]))
    return values


def first_layer_fields(module: nn.Module) -> Tensor | None:
    """Return the weights of the first layer as images ``(N, C, H, W)``, or ``None`` if they are no images."""
    if not isinstance(module, Network):
        return None
    shape = tuple(module.hparams["input_shape"] or ())
    first = module.units[0] if isinstance(module, LabelClassifier) else module
    weight = next((parameter.detach() for parameter in first.parameters() if parameter.ndim in (2, 4)), None)
    if isinstance(module, LabelClassifier) and module.stage is not None and module.stage.first_weight is not None:
        weight = module.stage.first_weight  # the first unit is in another process
    if weight is None or len(shape) != 3:
        return None
    if weight.ndim == 4:
        return weight if min(weight.shape[-2:]) > 1 else None
    if isinstance(module, LabelClassifier):
        seen = torch.Size(module.encoder.output_shape)
        if len(seen) != 3 or seen[1:] != shape[1:] or seen.numel() != weight.shape[1]:
            return None  # the input is no image, but tokens, for example
    size = math.prod(shape)
    return weight[:, :size].reshape(-1, *shape) if weight.shape[1] >= size else None
