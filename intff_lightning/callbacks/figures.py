"""TrainingFigures: pictures of a run, drawn when it ends."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

__all__ = ["TrainingFigures"]

_LINES = ["-", "--", ":", "-."]  # told apart in grey as well


class TrainingFigures(Callback):
    """Draws ``figures/*.png`` in the log folder: local loss (the paper's Figure 3), goodness, accuracy, confusion.

    Curves are drawn when training ends, the confusion matrix after the test. Their values are in the checkpoint, so a
    resumed run draws the whole of them.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the epoch's metrics."""
        for name, value in trainer.callback_metrics.items():
            self.history[name].append((trainer.current_epoch + 1, float(value)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        folder = self.folder(trainer)
        if folder is None or not self.history:
            return
        if "train/loss/unit_0" in self.history:
            self._curves(folder / "local_loss.png", "Local loss of each unit", "local loss", {"": "train/loss/unit_"})
        else:
            self._curves(folder / "loss.png", "Loss", "loss", {"training": "train/loss", "validation": "val/loss"})
        self._curves(
            folder / "goodness.png",
            "Goodness of training data",
            "goodness (mean square)",
            {"positive": "goodness/positive/unit_", "negative": "goodness/negative/unit_"},
        )
        self._curves(
            folder / "accuracy.png",
            "Validation accuracy",
            "accuracy (%)",
            {"": "val/accuracy/unit_", "vote": "val/accuracy"},
            scale=100,
        )

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the confusion matrix."""
        folder = self.folder(trainer)
        run: Any = trainer  # its connectors add the list of callbacks
        counts = next((c.confusion.get("test") for c in run.callbacks if hasattr(c, "confusion")), None)
        if folder is None or counts is None:
            return
        figure, axes = _figure()
        classes = len(counts)
        share = counts / counts.sum(1, keepdim=True).clamp(min=1)
        axes.imshow(share.numpy(), cmap="Greys", vmin=0, vmax=1)
        if classes <= 20:
            for row in range(classes):
                for column in range(classes):
                    if counts[row, column]:
                        colour = "white" if share[row, column] > 0.5 else "black"
                        axes.text(
                            column, row, int(counts[row, column]), ha="center", va="center", color=colour, fontsize=7
                        )
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
        right = 100 * float(counts.diagonal().sum() / counts.sum())
        axes.set(title=f"Test: {right:.2f} % right", xlabel="predicted class", ylabel="true class")
        axes.grid(False)
        _save(figure, folder / "confusion_matrix.png")

    @staticmethod
    def folder(trainer: L.Trainer) -> Path | None:
        """Where the figures of this run lie; ``None`` without a log folder, and on other processes than the first."""
        log_dir = trainer.log_dir  # once, on every process: it asks the first one
        quick = getattr(trainer, "fast_dev_run", False)  # set by one of its connectors
        if log_dir is None or not trainer.is_global_zero or quick:
            return None
        return Path(log_dir) / "figures"

    def _curves(self, path: Path, title: str, label: str, series: dict[str, str], scale: float = 1) -> None:
        from matplotlib import colormaps

        figure, axes = _figure()
        # a prefix of units takes each unit's curve, any other name is one curve of its own
        names = [
            (name, kind)
            for kind, wanted in series.items()
            for name in self.history
            if name == wanted or (wanted.endswith("unit_") and name.startswith(wanted))
        ]
        units = 1 + max((int(n.rpartition("_")[2]) for n, _ in names if "unit_" in n), default=0)
        for name, kind in names:
            if "unit_" in name:
                k = int(name.rpartition("_")[2])
                color = colormaps["viridis"](0.85 * k / max(1, units - 1))
                style: dict[str, Any] = {"color": color, "linestyle": _LINES[list(series).index(kind) % len(_LINES)]}
                text = f"unit {k} {kind}".strip()
            else:
                line = _LINES[(1 + list(series).index(kind)) % len(_LINES)]
                style, text = {"color": "black", "linewidth": 2, "linestyle": line}, kind
            epochs, values = zip(*self.history[name], strict=True)
            axes.plot(epochs, [scale * v for v in values], label=text, marker="o" * (len(epochs) == 1), **style)
        if names:
            axes.legend(fontsize=8, ncols=1 + len(names) // 12, loc="center left", bbox_to_anchor=(1, 0.5))
            axes.set(title=title, xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            _save(figure, path)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"history": dict(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's curves."""
        self.history = defaultdict(list, {n: [tuple(p) for p in v] for n, v in state_dict["history"].items()})


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
