"""The module in a Lightning project that you have: your datamodule, your Trainer, your logger and callbacks.

Run it: python examples/existing_project.py
"""

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from intff_lightning import DenseUnit, IntFFModule, WrongLabels
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.local import UnitL2


class YourDataModule(L.LightningDataModule):
    """Stands for the datamodule that you have. It knows nothing about Forward-Forward."""

    def setup(self, stage: str) -> None:
        digits = load_digits()
        image = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        data = TensorDataset(image, torch.tensor(digits.target))
        self.train, self.val = random_split(data, [1500, 297], torch.Generator().manual_seed(0))

    def on_after_batch_transfer(self, batch: list[torch.Tensor], dataloader_idx: int) -> list[torch.Tensor]:
        image, target = batch
        if self.trainer.training:
            image = image + 0.05 * torch.randn_like(image)
        return [image, target]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=99)


def main(max_epochs: int = 10) -> float:
    L.seed_everything(0)
    data = PairedDataModule(YourDataModule(), negatives=WrongLabels(3), num_classes=10)
    module = IntFFModule([DenseUnit([200, 100]), DenseUnit([200, 100])], normalization=UnitL2(gain=20))
    trainer = L.Trainer(
        max_epochs=max_epochs,
        logger=CSVLogger("."),
        callbacks=[GoodnessLogger(), GoodnessAccuracy(), EarlyStopping("val/accuracy", mode="max", patience=5)],
    )
    trainer.fit(module, data)
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    print(f"validation accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
