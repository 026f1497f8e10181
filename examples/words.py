"""Token sequences: the language of a word from its letters, by an embedding and a recurrent unit.

It needs the word lists of wordfreq: pip install "intff-lightning[text]".
Run it: python examples/words.py
"""

import functools

import lightning as L
import torch

from intff_lightning import EmbeddingUnit, IntFFModule, RecurrentUnit
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import WordLanguageDataModule
from intff_lightning.datamodules.words import encode
from intff_lightning.local import RMS, ChannelGoodness, LabelCrossEntropy

LANGUAGES = ["de", "es", "fi", "pl"]


def main(max_epochs: int = 6) -> float:
    torch.manual_seed(0)
    module = IntFFModule(
        [EmbeddingUnit(48), RecurrentUnit(48)],  # letters with their neighbours, then the whole word
        goodness=ChannelGoodness(),  # one goodness per language, the mean over the letters
        loss=LabelCrossEntropy(threshold_weight=0, temperature=0.1),
        normalization=RMS(),
        optimizer=functools.partial(torch.optim.AdamW, lr=0.005),
    )
    data = WordLanguageDataModule(LANGUAGES, words=1200, batch_size=64)
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
    trainer.fit(module, data)

    module.eval()
    words = ["zusammen", "ciudades", "kaupunki", "wszystko"]
    with torch.no_grad():
        scores = module(encode(words, data.longest))  # (4, languages)
    for word, best in zip(words, scores.argmax(1).tolist(), strict=True):
        print(f"{word}: {LANGUAGES[best]}")
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {100 * main():.2f} %")
