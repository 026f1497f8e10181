"""A table with numbers, categories and gaps: train on it, and predict new rows of a CSV file by a checkpoint.

Run it: python examples/table.py
"""

import csv

import lightning as L
import numpy as np

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import TableDataModule
from intff_lightning.local import LabelCrossEntropy, NoNormalization, UnitL2


def penguins(count: int) -> dict[str, list[object]]:
    """Draw rows of a made-up table; a flipper in ten was not measured."""
    random = np.random.default_rng(0)
    species = random.choice(["Adelie", "Chinstrap", "Gentoo"], count)
    size = {"Adelie": 190, "Chinstrap": 196, "Gentoo": 217}
    flipper = [random.normal(size[name], 6) if random.random() > 0.1 else None for name in species]
    homes = {"Adelie": ["Biscoe", "Dream", "Torgersen"], "Chinstrap": ["Dream"], "Gentoo": ["Biscoe"]}
    island = [str(random.choice(homes[name])) for name in species]
    bill = [random.normal(39 if name == "Adelie" else 48, 2) for name in species]
    return {"species": list(species), "island": island, "flipper": flipper, "bill": bill}


def main(max_epochs: int = 20) -> float:
    L.seed_everything(0)
    data = TableDataModule(penguins(600), target="species", batch_size=16)
    loss = LabelCrossEntropy(threshold_weight=0.1)
    units = [DenseUnit([64, 64], normalization=NoNormalization()), DenseUnit([64, 64])]
    module = IntFFModule(units, normalization=UnitL2(gain=10), loss=loss)
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, callbacks=[GoodnessAccuracy()])
    trainer.fit(module, data)
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    trainer.save_checkpoint("penguins.ckpt")

    with open("new.csv", "w", newline="") as file:
        csv.writer(file).writerows([["island", "flipper", "bill"], ["Torgersen", "", 38.5], ["Biscoe", 221, 49]])
    module = IntFFModule.load_from_checkpoint("penguins.ckpt")
    new = TableDataModule.from_checkpoint("penguins.ckpt", predict_table="new.csv")
    (scores,) = trainer.predict(module, new)
    print(f"validation accuracy {100 * accuracy:.1f} %; new rows: {[new.class_names[i] for i in scores.argmax(1)]}")
    return accuracy


if __name__ == "__main__":
    main()
