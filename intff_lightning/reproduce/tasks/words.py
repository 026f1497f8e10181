"""Token sequences: the language of a word from its letters, for ten languages in Latin script."""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from intff_lightning.backprop import BackpropModule
from intff_lightning.datamodules import InMemoryDataset, WordLanguageDataModule
from intff_lightning.heads import LinearHead
from intff_lightning.lightning_compat import quiet
from intff_lightning.local import RMS, ChannelGoodness, Goodness, LabelCrossEntropy
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import WrongLabels
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.reproduce.tasks.task import Task
from intff_lightning.reproduce.tasks.training import train
from intff_lightning.units import EmbeddingUnit, HiddenUnit, RecurrentUnit, UnitChain

EPOCHS = 12
GRID: tuple[dict[str, float], ...] = tuple(
    {"lr": lr, "weight_decay": decay} for lr in (0.002, 0.005, 0.01) for decay in (0.01, 0.1)
)
"""What was tried of every algorithm on the validation words of seed 0; see :func:`main`."""
SETTINGS: dict[str, dict[str, float]] = {
    "intff": GRID[0],
    "channels": GRID[0],
    "head": GRID[0],
    "bp": GRID[0],
}
"""What was the best of them."""
NAMES = {"channels": "channels", "head": "IntFF by class, linear heads"}
_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)


def units() -> list[HiddenUnit]:
    """Return the layers of all networks."""
    return [EmbeddingUnit(96, context=5), RecurrentUnit(96)]


def make_network(algorithm: str, setting: Mapping[str, float]) -> Network:
    """Make an untrained network; all algorithms train the same layers."""
    options: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.AdamW, **setting),
        "scheduler": functools.partial(CosineDecay, warmup=0.05),
    }
    if algorithm == "bp":
        return BackpropModule(UnitChain(units()), **options)
    goodness: dict[str, Goodness] = {"channels": ChannelGoodness(), "head": LinearHead(pool=1)}
    return IntFFModule(
        units(),
        normalization=RMS(),
        goodness=goodness.get(algorithm),
        loss=LabelCrossEntropy(
            threshold_weight=0.0, collaboration=1.0, temperature=0.2 if algorithm == "channels" else 1.0
        ),
        **options,
    )


def data(seed: int, quick: bool) -> WordLanguageDataModule:
    """Return the words; the seed draws their parts, their order and the wrong labels."""
    return WordLanguageDataModule(
        words=100 if quick else 5000, val_seed=seed, seed=seed, batch_size=128, negatives=WrongLabels(3)
    )


def trained(algorithm: str, setting: Mapping[str, float], seed: int, quick: bool) -> tuple[Network, float]:
    """Return a trained network, as it was at its best validation, and its validation accuracy."""
    L.seed_everything(seed, verbose=False)
    module = make_network(algorithm, setting)
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
    for algorithm, setting in SETTINGS.items():
        module, _ = trained(algorithm, setting, seed, quick)
        found[NAMES.get(algorithm, algorithm)] = _accuracy(module, source.dataset("test"))
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
    "Portuguese), 5,000 words each, from the lists of wordfreq. A word that is on several lists belongs to the language "
    "where it is most frequent. A seed divides the words, 70 % for training, 10 % for validation and 20 % for test, and "
    "draws the weights. All networks have the same layers: an embedding of 96 features with a dense layer over five "
    "letters, and a bidirectional GRU of 96 neurons with a dense layer. Learning rate and weight decay are the best of "
    f"{len(GRID)} on the validation words of seed 0, and validation chooses the epoch. Logistic regression is "
    f"scikit-learn's, on n-grams of 1 to 4 letters, with the best of {len(_STRENGTHS)} regularizations on the validation "
    "words of each seed.",
    cases={"ten_languages": rows},
)


def main(args: Sequence[str] | None = None) -> int:
    """Try the settings of :data:`GRID` on the validation words of seed 0; test words stay closed."""
    parser = argparse.ArgumentParser(prog="python -m intff_lightning.reproduce.tasks.words", description=main.__doc__)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=", ".join(SETTINGS))
    parser.add_argument("--quick", action="store_true", help="one epoch on a few words")
    asked = parser.parse_args(args)
    quiet()
    for algorithm in asked.algorithms or SETTINGS:
        for setting in GRID:
            _, value = trained(algorithm, setting, 0, asked.quick)
            print(f"{algorithm} {setting}: validation {100 * value:.2f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
