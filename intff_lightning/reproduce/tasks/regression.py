"""Regression: numbers in the data that come with scikit-learn, cross-validated."""

import functools
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from intff_lightning.datamodules import InMemoryDataset, TableDataModule
from intff_lightning.local import LabelCrossEntropy, NoNormalization, UnitL2
from intff_lightning.recipe import to_recipe
from intff_lightning.regression import BackpropRegression, RegressionModule, Regressor
from intff_lightning.reproduce.configs import lean
from intff_lightning.reproduce.tasks.tables import FOLDS, columns, folds
from intff_lightning.reproduce.tasks.task import Task
from intff_lightning.reproduce.tasks.training import SETTINGS, epochs_of, make_units, schedule, train
from intff_lightning.targets import TargetFeatures
from intff_lightning.units.chain import UnitChain


def _column(load: Callable[..., Any], name: str) -> tuple[Any, Any]:
    """Return a column of a data set as the target, and the other ones as features."""
    found = load()
    number = list(found.feature_names).index(name)
    return np.delete(found.data, number, axis=1), found.data[:, number]


def _linnerud(number: int) -> tuple[Any, Any]:
    found = datasets.load_linnerud()
    return found.data, found.target[:, number]


_SETS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "diabetes": functools.partial(datasets.load_diabetes, return_X_y=True),
    "linnerud, weight": functools.partial(_linnerud, 0),
    "linnerud, waist": functools.partial(_linnerud, 1),
    "linnerud, pulse": functools.partial(_linnerud, 2),
    "iris, petal width": functools.partial(_column, datasets.load_iris, "petal width (cm)"),
    "wine, alcohol": functools.partial(_column, datasets.load_wine, "alcohol"),
    "breast cancer, mean fractal dimension": functools.partial(
        _column, datasets.load_breast_cancer, "mean fractal dimension"
    ),
    "friedman 1": functools.partial(datasets.make_friedman1, 500, noise=1.0, random_state=0),
    "friedman 2": functools.partial(datasets.make_friedman2, 500, noise=125.0, random_state=0),
    "friedman 3": functools.partial(datasets.make_friedman3, 500, noise=0.1, random_state=0),
}
_COVERAGE = 0.9


def make_network(algorithm: str, setting: dict[str, float]) -> Regressor:
    """Make the network of an algorithm; both of them train the same layers."""
    units = make_units()
    if algorithm == "bp":
        body = UnitChain(units, normalization=NoNormalization())
        return BackpropRegression(body, coverage=_COVERAGE, **schedule(setting))
    return RegressionModule(
        units,
        encoder=TargetFeatures(amplitude=3.0),
        normalization=UnitL2(10),
        loss=LabelCrossEntropy(threshold_weight=0.0, collaboration=1.0),
        coverage=_COVERAGE,
        **schedule(setting),
    )


def tuned(
    algorithm: str, data: Callable[[], TableDataModule], seed: int, quick: bool
) -> tuple[Regressor, TableDataModule]:
    """Train a network with each of the settings, and return that of the best validation, with its data."""
    found = []
    for setting in SETTINGS[:1] if quick else SETTINGS:
        L.seed_everything(seed, verbose=False)
        module, own = make_network(algorithm, setting), data()
        found.append((train(module, own, epochs_of(own, quick), "val/r2"), module, own))
    return max(found, key=lambda each: each[0])[1:]


def rows(seed: int, data_dir: str, quick: bool, name: str) -> list[dict[str, Any]]:
    """Return R², mean absolute error, and coverage and width of intervals, over the test rows of all folds."""
    x, target = _SETS[name]()
    predicted: dict[str, list[Any]] = {}
    true = []
    for train_rows, test in folds(KFold(FOLDS, shuffle=True, random_state=seed), x, target, quick):
        true.append(target[test])
        data = functools.partial(
            TableDataModule,
            columns(x, target, test),
            target="target",
            split="part",
            val_seed=seed,
            seed=seed,
            batch_size=32,
            regression=True,
        )
        for algorithm in ("intff", "bp"):
            module, own = tuned(algorithm, data, seed, quick)
            held = own.dataset("test")
            assert isinstance(held, InMemoryDataset)
            with torch.no_grad():
                predicted.setdefault(algorithm, []).append(module.estimate(module(held.image)).double().numpy())
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11)))
        boosting = HistGradientBoostingRegressor(max_iter=2 if quick else 100, random_state=seed)
        others = {"gradient boosting": boosting, "ridge regression": ridge}
        for algorithm, method in others.items():
            found = method.fit(x[train_rows], target[train_rows]).predict(x[test])
            predicted.setdefault(algorithm, []).append(found[:, None])
    truth, made = np.concatenate(true), []
    for algorithm, parts in predicted.items():
        found = np.concatenate(parts)
        measures = {
            "R²": (r2_score(truth, found[:, 0]), "higher"),
            "mean absolute error": (mean_absolute_error(truth, found[:, 0]), "lower"),
        }
        if found.shape[1] > 1:
            inside = (found[:, 1] <= truth) & (truth <= found[:, 2])
            measures["coverage %"] = (100 * inside.mean(), "")
            measures["interval width"] = ((found[:, 2] - found[:, 1]).mean(), "lower")
        for measure, (value, better) in measures.items():
            row = {"what": name, "algorithm": algorithm, "measure": measure, "value": float(value), "better": better}
            made.append({**row, "averaged": len(x) > 20 and measure in ("R²", "coverage %")})
    return made


TASK = Task(
    name="regression",
    title="Regression: numbers in scikit-learn's data",
    note=f"Over the test rows of {FOLDS} folds; a seed draws the folds and the weights. IntFF (goodness over candidate "
    "targets, the mean of their softmax) and backpropagation (squared error) train the same layers, two units of 64-64 "
    "neurons, on the rows that are not for test. A fifth of these is for validation, which chooses the epoch and one "
    f"of {len(SETTINGS)} settings of learning rate and weight decay, the same for both, and calibrates the intervals, "
    f"which are to hold {100 * _COVERAGE:.0f} % of the targets. How IntFF shows a candidate (an amplitude of 3) was "
    "chosen for IntFF alone, among seven variants on the validation rows of four of the data sets; these rows are test "
    "rows of other folds. The last layer of backpropagation starts with the middle of the range. Gradient boosting "
    "(scikit-learn's defaults) and ridge regression (which chooses among 11 strengths) train on the validation rows, "
    "too. In iris, wine and breast cancer, a column is the target. "
    "The data of Friedman (1991) are generated with noise. The mean leaves out Linnerud, which has 20 rows.",
    cases={name.replace(", ", "_").replace(" ", "_"): functools.partial(rows, name=name) for name in _SETS},
    average=True,
    settings={
        **{name: lean(to_recipe(make_network(name, SETTINGS[0]))) for name in ("intff", "bp")},
        "tried": SETTINGS,
        "folds": FOLDS,
        "last layer of bp": "starts with the middle of the range",
    },
)
