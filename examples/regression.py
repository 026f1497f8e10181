"""A number with its interval: goodness over candidate targets, beside backpropagation of the same layers.

Run it: python examples/regression.py
"""

import functools

import lightning as L
import torch
from sklearn.datasets import make_regression

from intff_lightning import BackpropRegression, DenseUnit, RegressionModule
from intff_lightning.callbacks import RegressionMetrics
from intff_lightning.datamodules import TableDataModule
from intff_lightning.local import LabelCrossEntropy, NoNormalization, UnitL2
from intff_lightning.optim import CosineDecay
from intff_lightning.units.chain import UnitChain


def table(count: int = 600) -> dict[str, list[float]]:
    """Return made-up data: six columns, of which three matter, and noise."""
    x, y = make_regression(count, n_features=6, n_informative=3, noise=10, random_state=0)
    return {**{f"x{number}": list(column) for number, column in enumerate(x.T)}, "y": list(y)}


def main(max_epochs: int = 30) -> float:
    found = {}
    rule = {"optimizer": functools.partial(torch.optim.AdamW, lr=0.01), "scheduler": CosineDecay}
    for name in ("IntFF", "backpropagation"):
        L.seed_everything(0)
        options = {"initialization": "kaiming_normal"}
        units = [DenseUnit([64, 64], normalization=NoNormalization(), **options), DenseUnit([64, 64], **options)]
        if name == "IntFF":
            loss = LabelCrossEntropy(threshold_weight=0.0, collaboration=1.0)
            module = RegressionModule(units, normalization=UnitL2(gain=10), loss=loss, coverage=0.9, **rule)
        else:
            module = BackpropRegression(UnitChain(units, normalization=NoNormalization()), coverage=0.9, **rule)
        data = TableDataModule(table(), target="y", regression=True, batch_size=16)
        options = {"logger": False, "enable_checkpointing": False, "callbacks": [RegressionMetrics()]}
        trainer = L.Trainer(max_epochs=max_epochs, **options)
        trainer.fit(module, data)
        (metrics,) = trainer.validate(module, data, verbose=False)
        found[name] = metrics["val/r2"]
        value, lower, upper = trainer.predict(module, data)[0][0].tolist()
        print(f"{name}: R² {metrics['val/r2']:.3f}, coverage {100 * metrics['val/coverage']:.0f} %, ", end="")
        print(f"first prediction {value:.2f} ({lower:.2f} to {upper:.2f})")
    return found["IntFF"]


if __name__ == "__main__":
    main()
