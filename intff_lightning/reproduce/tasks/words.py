"""Token sequences: the language of a word from its letters, for ten languages in Latin script."""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from intff_lightning.backprop import BackpropModule
from intff_lightning.datamodules import InMemoryDataset, WordLanguageDataModule
from intff_lightning.datamodules.words import LANGUAGES, list_words
from intff_lightning.lightning_compat import quiet
from intff_lightning.local import RMS, ChannelGoodness, LabelCrossEntropy
from intff_lightning.module import IntFFModule
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.reproduce.tasks.task import Task
from intff_lightning.reproduce.tasks.training import train
from intff_lightning.units import EmbeddingUnit, HiddenUnit, RecurrentUnit, UnitChain

EPOCHS = 8
GRID: dict[str, tuple[dict[str, float], ...]] = {
    "channels": (
        {"lr": 0.004, "weight_decay": 0.05, "temperature": 0.2},
        {"lr": 0.004, "weight_decay": 0.05, "temperature": 0.1},
        {"lr": 0.004, "weight_decay": 0.05, "temperature": 0.05},
        {"lr": 0.008, "weight_decay": 0.2, "temperature": 0.1},
    ),
    "bp": (
        {"lr": 0.004, "weight_decay": 0.05},
        {"lr": 0.004, "weight_decay": 0.3},
        {"lr": 0.008, "weight_decay": 0.05},
        {"lr": 0.002, "weight_decay": 0.05},
    ),
}
"""What was tried of each algorithm on the validation words of seed 0, as often for both; see :func:`main`."""
CHOSEN = {"channels": 3, "bp": 0}
"""Numbers of the best of these."""
_STRENGTHS = (1.0, 3.0, 10.0, 30.0)


def units() -> list[HiddenUnit]:
    """Return the layers of both networks."""
    return [EmbeddingUnit(96, context=5), RecurrentUnit(96)]


def make_network(algorithm: str, lr: float, weight_decay: float, temperature: float = 1.0) -> Network:
    """Make an untrained network; both algorithms train the same layers."""
    options: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay),
        "scheduler": functools.partial(CosineDecay, warmup=0.05),
    }
    if algorithm == "bp":
        return BackpropModule(UnitChain(units()), **options)
    loss = LabelCrossEntropy(threshold_weight=0.0, temperature=temperature)
    return IntFFModule(units(), normalization=RMS(), goodness=ChannelGoodness(), loss=loss, **options)


def data(seed: int, quick: bool) -> WordLanguageDataModule:
    """Return the words, divided as for the choice of the settings; the seed draws their order."""
    return WordLanguageDataModule(words=100 if quick else 5000, val_seed=0, seed=seed, batch_size=256)


def trained(algorithm: str, setting: dict[str, float], seed: int, quick: bool) -> tuple[Network, float]:
    """Return a trained network, as it was at its best validation, and its validation accuracy."""
    L.seed_everything(seed, verbose=False)
    module = make_network(algorithm, **setting)
    return module, train(module, data(seed, quick), 1 if quick else EPOCHS, "val/accuracy")


def _accuracy(module: Network, words: Any) -> float:
    assert isinstance(words, InMemoryDataset)
    with torch.no_grad():
        found = torch.cat([module(ids) for ids in torch.split(words.image, 1000)]).argmax(1)
    return 100 * float((found == words.target).double().mean())


def _n_grams(strength: float) -> Any:
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, lowercase=False)
    return make_pipeline(grams, LogisticRegression(C=strength, max_iter=300))


def rows(seed: int, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the test accuracy of each algorithm."""
    source = data(seed, quick)
    found = {}
    for algorithm, number in CHOSEN.items():
        module, _ = trained(algorithm, GRID[algorithm][number], seed, quick)
        found[algorithm] = _accuracy(module, source.dataset("test"))
    best = 0.0
    for strength in _STRENGTHS[:1] if quick else _STRENGTHS:
        method = _n_grams(strength).fit(*source.words_of("train"))
        value = method.score(*source.words_of("val"))
        if value > best:
            best = value
            found["logistic regression of letter n-grams"] = 100 * method.score(*source.words_of("test"))
    return [
        {"what": "ten languages", "algorithm": name, "measure": "accuracy %", "value": value, "better": "higher"}
        for name, value in found.items()
    ]


TASK = Task(
    name="words",
    title="Token sequences: the language of a word",
    note="Test accuracy for ten languages (Czech, German, English, Spanish, Finnish, French, Italian, Dutch, Polish, "
    "Portuguese): up to 5,000 of the most frequent words of each, from the lists of wordfreq. A word on several lists "
    "belongs to the language where it is most frequent. The words are divided once: 70 % for training, 10 % for "
    "validation, 20 % for test. A seed draws the weights and the order. "
    "IntFF by class and backpropagation train the same layers for the same number of epochs: an embedding "
    "of 96 features with a dense layer over five letters, and a bidirectional GRU of 96 neurons with a dense layer. "
    f"Their settings are the best of {len(GRID['bp'])} on the validation words of seed 0, and validation chooses the "
    "epoch. Logistic regression is scikit-learn's, on n-grams of 1 to 4 letters, with the best of "
    f"{len(_STRENGTHS)} regularizations on the validation words.",
    cases={"ten_languages": rows},
    settings={name: GRID[name][number] for name, number in CHOSEN.items()} | {"epochs": EPOCHS, "n-grams": _STRENGTHS},
    check=functools.partial(list_words, LANGUAGES[:1], 1, 3, 14, "drop"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Try the settings of GRID on the validation words of seed 0; test words stay closed."""
    parser = argparse.ArgumentParser(prog="python -m intff_lightning.reproduce.tasks.words", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch on a few words")
    quick = parser.parse_args(args).quick
    quiet()
    for algorithm, settings in GRID.items():
        for number, setting in enumerate(settings):
            _, value = trained(algorithm, setting, 0, quick)
            print(f"{algorithm} {number}, {setting}: validation {100 * value:.2f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
