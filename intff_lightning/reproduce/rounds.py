"""The author's procedure, round by round: accuracy and live neurons, and what each rule of stopping gives.

A round is the author's unit of training: for IntFF and FF, every unit has taken its inner steps on the whole set; for
backpropagation, one epoch.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from intff_lightning.classifier import LabelClassifier
from intff_lightning.datamodules import InMemoryDataset, MNISTDataModule
from intff_lightning.datamodules.datasets import Part
from intff_lightning.files import atomic_write
from intff_lightning.functional import float_pixels
from intff_lightning.modes import evaluating
from intff_lightning.network import Network

VALIDATION = 5000
"""The last training images of MNIST, without corruption, are the validation images of the record."""


def batches(data: InMemoryDataset, device: torch.device, size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images ``(B, *)``, float in [0, 1], and classes ``(B,)`` of a data set in its order, on a device."""
    for image, target in zip(torch.split(data.image, size), torch.split(data.target, size), strict=True):
        yield float_pixels(image.to(device)), target.to(device)


@torch.no_grad()
def accuracies(module: Network, data: InMemoryDataset) -> list[float]:
    """Return accuracies in percent: of the network, and of its first hidden unit alone if it has hidden units."""
    correct: list[Tensor] = []
    with evaluating(module):
        for image, target in batches(data, module.device):
            if isinstance(module, LabelClassifier):
                goodness = module.label_goodness(image)  # (U, B, C)
                scores = torch.stack([module.count_votes(goodness), goodness[0]])
            else:
                scores = module(image).unsqueeze(0)
            correct.append((scores.argmax(2) == target).sum(1))
    return [100 * count / len(data) for count in torch.stack(correct).sum(0).tolist()]


@torch.no_grad()
def live_neurons(module: Network, data: InMemoryDataset) -> list[int]:
    """Count the live neurons of every ReLU layer, in the order of the layers.

    A neuron is alive if its output is above zero for at least one image of ``data``. A network that reads labels is
    shown each image under the label that ``data`` gives it. A channel of a convolution counts as one neuron.
    """
    alive: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        above = (output > 0).transpose(0, 1).flatten(1).any(1)
        alive[layer] = alive[layer] | above if layer in alive else above

    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, nn.ReLU)]
    try:
        with evaluating(module):
            for image, target in batches(data, module.device):
                if isinstance(module, LabelClassifier):
                    module.goodness(module.encoder(image, target))
                else:
                    module(image)
                if all(neurons.all() for neurons in alive.values()):
                    break  # no other image can change the counts
    finally:
        for hook in hooks:
            hook.remove()
    return [int(neurons.sum()) for neurons in alive.values()]


class RoundRecord(Callback):
    """Measures the network after every round, and writes the record as a table (CSV).

    The columns are ``round``, ``validation`` and ``test`` (accuracies in percent), the same of the first hidden unit
    alone (``validation_unit_0``, ``test_unit_0``; not for backpropagation), and ``live_1``, ``live_2``, ... (the
    :func:`live_neurons` of each layer on the training set). The record is part of the checkpoint, so a resumed run
    continues it. The measurements draw no random numbers and do not change the training.

    Args:
        path: The table.
        data: Datamodule of the run.
    """

    def __init__(self, path: Path, data: MNISTDataModule) -> None:
        self.path, self.data = path, data
        self.rounds: list[dict[str, float]] = []
        self._validation: InMemoryDataset | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        whole = _in_memory(MNISTDataModule(str(self.data.data_dir), val_size=0), "train")
        self._validation = InMemoryDataset(whole.image[-VALIDATION:], whole.target[-VALIDATION:])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Network)
        assert self._validation is not None
        measured: dict[str, float] = {"round": trainer.current_epoch + 1}
        for name, data in (("validation", self._validation), ("test", _in_memory(self.data, "test"))):
            measured |= zip((name, f"{name}_unit_0"), accuracies(pl_module, data), strict=False)
        live = live_neurons(pl_module, _in_memory(self.data, "train"))
        measured |= {f"live_{k}": count for k, count in enumerate(live, 1)}
        self.rounds.append(measured)
        write_table(self.path, self.rounds)

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rounds = list(state_dict["rounds"])


def _in_memory(data: MNISTDataModule, part: Part) -> InMemoryDataset:
    found = data.dataset(part)
    assert isinstance(found, InMemoryDataset)
    return found


# -------------------------------------------------------------------- tables of rounds

GROUP = ("algorithm", "network", "corruption", "rate")
"""Columns that tell one row of the paper's table from another."""


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; a row that lacks a column leaves its cell empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of :func:`write_table`: numbers as numbers, and no empty cells."""
    with path.open(newline="") as file:
        return [{name: _value(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def _value(cell: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def summarize_rounds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each rule of stopping gives for every seed, then the mean and the standard deviation of the seeds.

    The rules are the last round, the round with the best validation accuracy, and the round with the best test
    accuracy; of equal rounds, the latest. The last rule is no result, because it selects on the test data.

    Args:
        rows: Rounds of :class:`RoundRecord`, each with its ``seed`` and the columns of :data:`GROUP`.

    Returns:
        Lines with ``seed`` (a number, ``mean`` or ``std``), test accuracies in percent (``last``, ``best_validation``,
        ``best_test``, and ``unit_0`` after the last round), the numbers of the chosen rounds, ``validation`` and
        ``live`` (live neurons of each layer), both after the last round.
    """
    runs: dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]] = {}
    for row in rows:
        runs.setdefault(tuple(row[name] for name in GROUP), {}).setdefault(row["seed"], []).append(row)
    lines = []
    for group, seeds in runs.items():
        place = dict(zip(GROUP, group, strict=True))
        mine = [_of_seed(seed, rounds) for seed, rounds in seeds.items()]
        lines += [{**place, **line} for line in mine]
        if len(mine) > 1:
            lines += [{**place, **_over_seeds(mine, *kind)} for kind in (("mean", fmean), ("std", stdev))]
    return lines


def _of_seed(seed: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    last, validation, test = (
        max(rounds, key=lambda row: (row[by], row["round"])) for by in ("round", "validation", "test")
    )
    return {
        "seed": seed,
        "last": last["test"],
        "last_round": last["round"],
        "best_validation": validation["test"],
        "best_validation_round": validation["round"],
        "best_test": test["test"],
        "best_test_round": test["round"],
        "unit_0": last.get("test_unit_0"),
        "validation": last["validation"],
        "live": [value for name, value in last.items() if name.startswith("live_")],
    }


def _over_seeds(lines: list[dict[str, Any]], name: str, kind: Callable[[list[Any]], float]) -> dict[str, Any]:
    def over(values: list[Any]) -> Any:
        return None if None in values else kind(values)

    accuracies = ("last", "best_validation", "best_test", "unit_0", "validation")
    live = [kind(list(counts)) for counts in zip(*(line["live"] for line in lines), strict=True)]
    return {"seed": name, **{key: over([line[key] for line in lines]) for key in accuracies}, "live": live}
