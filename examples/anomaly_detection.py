"""Anomaly detection: a network learns one digit, and finds all others.

Negatives are made of the normal images alone. Selection would use them too: val/auroc compares normal validation images
with their negatives. The other digits are seen in the test for the first time.
Run it: python examples/anomaly_detection.py
"""

import lightning as L
import torch

from intff_lightning import DenseUnit, IntFFModule, NoLabel, Perturbed
from intff_lightning.callbacks import AnomalyScore, GoodnessLogger
from intff_lightning.datamodules import DigitsDataModule, OneClassDataModule
from intff_lightning.distortions import Chained, CutPaste, Erased, OneOf, Superposed, Warped
from intff_lightning.local import UnitL2


def main(max_epochs: int = 60, normal: int = 3) -> float:
    L.seed_everything(0)
    other = Warped(strength=0.15, degrees=180, scale=0.3, shift=0.1)  # another shape
    erased = Erased(blurs=2)  # small regions: these images have 8x8 pixels
    negatives = OneOf([other, erased, Superposed(Chained([other, erased])), CutPaste(patches=2), Perturbed(0.3)])
    data = OneClassDataModule(DigitsDataModule(), negatives, normal=normal, batch_size=16)
    units = [DenseUnit([200, 200]), DenseUnit([200, 200])]
    module = IntFFModule(units, encoder=NoLabel(), normalization=UnitL2(gain=10))
    trainer = L.Trainer(
        max_epochs=max_epochs,
        callbacks=[GoodnessLogger(), AnomalyScore()],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    print(f"validation, against negatives: AUROC {trainer.callback_metrics['val/auroc']:.4f}")
    (found,) = trainer.test(module, data)
    image = data.dataset("test").image[:5]
    with torch.no_grad():
        print("anomaly scores of five test images:", module.eval().anomaly_score(image))
    return found["test/auroc"]


if __name__ == "__main__":
    main()
