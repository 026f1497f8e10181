"""Tables: the classification data that come with scikit-learn, cross-validated."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy

from intff_lightning.backprop import BackpropModule
from intff_lightning.datamodules import InMemoryDataset, TableDataModule
from intff_lightning.errors import DivergenceError
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy, NoNormalization, UnitL2
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import WrongLabels
from intff_lightning.network import Network
from intff_lightning.reproduce.tasks.task import Task
from intff_lightning.reproduce.tasks.training import SETTINGS, epochs_of, make_units, schedule, train
from intff_lightning.temperature import fit_temperature
from intff_lightning.units.chain import UnitChain

FOLDS = 5
_SETS: dict[str, Callable[..., Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def make_network(algorithm: str, setting: dict[str, float]) -> Network:
    """Make the network of an algorithm; all of them train the same layers."""
    units = make_units()
    if algorithm == "bp":
        return BackpropModule(UnitChain(units, normalization=NoNormalization()), **schedule(setting))
    return IntFFModule(
        units,
        normalization=UnitL2(10),
        goodness=ChannelGoodness() if algorithm == "channels" else None,
        loss=LabelCrossEntropy(threshold_weight=0.1, collaboration=1.0),
        **schedule(setting),
    )


def columns(x: Any, target: Any, test: Any) -> dict[str, Any]:
    """Return a table of features, target and the part that each row belongs to.

    Args:
        x: Features ``(N, D)``.
        target: ``(N,)``.
        test: Numbers of the test rows.
    """
    part = np.full(len(target), "train", dtype=object)
    part[test] = "test"
    return {**{f"x{number}": column for number, column in enumerate(x.T)}, "target": target, "part": part}


def folds(splitter: Any, x: Any, target: Any, quick: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the rows for training and for test of each fold; of the first one alone for a quick look."""
    for number, rows in enumerate(splitter.split(x, target)):
        if not (quick and number):
            yield rows


def tuned(
    algorithm: str, data: Callable[..., TableDataModule], seed: int, quick: bool
) -> tuple[Network, TableDataModule]:
    """Choose a setting on validation rows, and train a network with it on all rows but those for test."""
    losses = []
    for setting in SETTINGS[:1] if quick else SETTINGS:
        L.seed_everything(seed, verbose=False)
        module, own = make_network(algorithm, setting), data(val_seed=seed)
        diverged = train(module, own, epochs_of(own, quick)) < 0
        losses.append(float("inf") if diverged else validation_loss(module, own))
    L.seed_everything(seed, verbose=False)
    module, own = make_network(algorithm, SETTINGS[losses.index(min(losses))]), data(val_size=0)
    if train(module, own, epochs_of(own, quick)) < 0:
        raise DivergenceError(f"the network of {algorithm} diverged with the setting that validation had chosen.")
    return module, own


def validation_loss(module: Network, data: TableDataModule) -> float:
    """Return the cross-entropy of validation rows, by the temperature that suits them: scores have no common scale."""
    held = data.dataset("val")
    assert isinstance(held, InMemoryDataset)
    with torch.no_grad():
        scores = module(held.image)
        return float(cross_entropy(scores / fit_temperature(scores, held.target), held.target))


def rows(seed: int, data_dir: str, quick: bool, name: str) -> list[dict[str, Any]]:
    """Return the accuracy of each algorithm on a data set, over the test rows of all folds."""
    x, target = _SETS[name](return_X_y=True)
    right: dict[str, list[float]] = {}
    for train_rows, test in folds(StratifiedKFold(FOLDS, shuffle=True, random_state=seed), x, target, quick):
        data = functools.partial(
            TableDataModule,
            columns(x, target, test),
            target="target",
            split="part",
            seed=seed,
            batch_size=64 if len(x) > 1000 else 32,
        )
        wrong = WrongLabels(min(9, int(target.max())))
        for algorithm in ("intff", "channels", "bp"):
            made = functools.partial(data, negatives=wrong)
            module, own = tuned(algorithm, made, seed, quick)
            held = own.dataset("test")
            assert isinstance(held, InMemoryDataset)
            with torch.no_grad():
                found = module(held.image).argmax(1)
            right.setdefault(algorithm, []).extend((found == held.target).double().tolist())
        others = {
            "gradient boosting": HistGradientBoostingClassifier(max_iter=2 if quick else 100, random_state=seed),
            "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        }
        for algorithm, method in others.items():
            found = method.fit(x[train_rows], target[train_rows]).predict(x[test])
            right.setdefault(algorithm, []).extend((found == target[test]).astype(float).tolist())
    shared = {"what": name, "measure": "accuracy %", "better": "higher"}
    return [
        {**shared, "algorithm": algorithm, "value": 100 * float(np.mean(hits))} for algorithm, hits in right.items()
    ]


TASK = Task(
    name="tables",
    title="Tables: scikit-learn's classification data",
    note=f"Accuracy over the test rows of {FOLDS} folds; a seed draws the folds and the weights. IntFF (the label in "
    "extra columns), IntFF by class and backpropagation train the same layers, two units of 64-64 neurons. A fifth "
    f"of the rows that are not for test is for validation, which chooses one of {len(SETTINGS)} settings of learning "
    "rate and weight decay, the same for all three, by the cross-entropy. Then the network is trained on all rows that "
    "are not for test. Gradient boosting has scikit-learn's defaults, and logistic regression reads standardized "
    "columns; neither is tuned.",
    cases={name.replace(" ", "_"): functools.partial(rows, name=name) for name in _SETS},
    average=True,
    settings={"tried": SETTINGS, "folds": FOLDS},
)
