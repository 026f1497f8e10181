"""An existing network: stages of torchvision's ResNet-18 become hidden units, with your own datamodule.

Run it: python examples/resnet18.py
"""

import lightning as L
import torch
import torchvision
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from intff_lightning import IntFFModule, split
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy
from intff_lightning.optim import CosineDecay


class YourDataModule(L.LightningDataModule):
    """Stands for the datamodule that you have: colour images and labels."""

    def setup(self, stage: str) -> None:
        digits = load_digits()
        image = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        image = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear").expand(-1, 3, -1, -1)
        data = TensorDataset(image, torch.tensor(digits.target))
        self.train, self.val = random_split(data, [1500, 297], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=99)


def main(max_epochs: int = 4) -> float:
    L.seed_everything(0)
    # images of 16 pixels would leave layer4 maps of one pixel
    pieces = split(torchvision.models.resnet18(), at=["layer1", "layer2", "layer3"], until="layer4")
    loss = LabelCrossEntropy(threshold_weight=0.0, temperature=0.2)
    module = IntFFModule(pieces, goodness=ChannelGoodness(), loss=loss, scheduler=CosineDecay)
    data = PairedDataModule(YourDataModule(), num_classes=10)
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
    trainer.fit(module, data)
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    print(f"validation accuracy {100 * accuracy:.1f} %, local loss {float(trainer.callback_metrics['train/loss']):.3f}")
    return accuracy


if __name__ == "__main__":
    main()
