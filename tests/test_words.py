"""Words and their languages: where the words go, what they become, and the command line."""

import sys
import unicodedata
from pathlib import Path

import pytest
import torch

from intff_lightning.cli import main
from intff_lightning.datamodules import WordLanguageDataModule
from intff_lightning.datamodules.words import LETTERS, encode, list_words
from intff_lightning.errors import ConfigurationError, DataError

wordfreq = pytest.importorskip("wordfreq")
SMALL = {"languages": ["de", "en", "fi"], "words": 300}
PARTS = ("train", "val", "test")


def _placed(**options):
    """The part of every word."""
    data = WordLanguageDataModule(**{**SMALL, **options})
    found = {}
    for part in PARTS:
        words, languages = data.words_of(part)
        assert not found.keys() & set(words)
        found.update({word: (part, language) for word, language in zip(words, languages, strict=True)})
        assert len(data.dataset(part)) == len(words)
    return found


def test_a_word_keeps_its_part():
    first = _placed()
    more = _placed(words=600, languages=["sv", "fi", "de", "en"], shortest=2)
    assert {word: part for word, (part, _) in first.items()}.items() <= {w: p for w, (p, _) in more.items()}.items()
    sizes = [sum(part == name for part, _ in first.values()) for name in PARTS]
    assert sum(sizes) == len(first)
    for size, share in zip(sizes, (0.7, 0.1, 0.2), strict=True):
        assert abs(size / len(first) - share) < 0.05
    other = _placed(val_seed=1)
    assert other.keys() == first.keys()
    assert sum(other[word][0] != first[word][0] for word in first) > 200


def test_a_language_with_few_latin_words_is_named():
    with pytest.warns(UserWarning, match="the list of ru has only [0-9]+ words in small Latin letters"):
        list_words(["ru"], 5000, 3, 14, "drop")


def test_a_shared_word_belongs_to_the_language_where_it_is_most_frequent():
    lists = {}
    for language in SMALL["languages"]:
        words = wordfreq.top_n_list(language, 1000, "small")  # by frequency
        words = [word for word in words if 3 <= len(word) <= 14 and set(word) <= set(LETTERS)]
        last = wordfreq.word_frequency(words[299], language, "small")
        ties = [word for word in words if wordfreq.word_frequency(word, language, "small") == last]
        lists[language] = [word for word in words[:300] if word not in ties]
        lists[language] += sorted(ties)[: 300 - len(lists[language])]
    shared = {word for word in lists["de"] + lists["en"] + lists["fi"] if sum(word in x for x in lists.values()) > 1}
    placed, without = _placed(), _placed(shared="drop")
    assert placed.keys() == set().union(*map(set, lists.values()))
    assert without.keys() == placed.keys() - shared
    assert len(shared) > 3
    for word, (_, language) in placed.items():
        holders = [name for name, words in lists.items() if word in words]
        assert language == max(holders, key=lambda name: wordfreq.word_frequency(word, name, "small"))


def test_words_become_ids():
    ids = encode(["abc", unicodedata.normalize("NFD", "žluť")], 5)
    assert ids.tolist() == [[1, 2, 3, 0, 0], [1 + LETTERS.index(letter) for letter in "žluť"] + [0]]
    data = WordLanguageDataModule(**SMALL, classify=["haus", "house"])
    assert data.vocabulary == len(LETTERS) + 1
    assert (data.input_shape, data.num_classes) == ((14,), 3)
    assert torch.equal(data.dataset("predict").image, encode(["haus", "house"], 14))
    words, languages = data.words_of("test")
    test = data.dataset("test")
    row = words.index("haus") if "haus" in words else 0
    assert torch.equal(test.image[row : row + 1], encode(words[row : row + 1], 14))
    assert SMALL["languages"][int(test.target[row])] == languages[row]
    assert torch.equal(WordLanguageDataModule(**SMALL).dataset("predict").image, test.image)
    for word in ("", "Haus", "don't", "слово", "a" * 15):
        with pytest.raises(DataError, match="cannot be read: 1 to 14 small Latin letters"):
            encode([word], 14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["de"]}, "two or more are needed, each once"),
        ({"languages": ["de", "de"]}, "two or more are needed, each once"),
        ({"languages": ["de", "xx"]}, "wordfreq has no list of xx"),
        ({"shared": "both"}, "shared='both': choose from"),
        ({"shortest": 9, "longest": 8}, "shortest=9, longest=8"),
        ({"test_size": 0.5, "val_size": 0.5}, "shares of a sum below 1"),
        ({"val_size": 100}, "shares of a sum below 1"),
        ({"pixel_range": [0.0, 1.0]}, "pixel_range has no effect on token ids"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigurationError, match=message):
        WordLanguageDataModule(**{**SMALL, **options}).dataset("train")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(
        ConfigurationError, match=r'the lists of words are missing: pip install "intff-lightning\[text\]"'
    ):
        WordLanguageDataModule(**SMALL).dataset("train")


def test_no_validation_words():
    data = WordLanguageDataModule(**SMALL, val_size=0)
    assert data.dataset("val") is None
    assert len(data.dataset("train")) + len(data.dataset("test")) == len(_placed())


@pytest.mark.slow
def test_the_command_line_trains_tests_and_classifies_words(capsys, blank_figures):
    small = ["--data.words", "200", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", "words", "--trainer.max_epochs", "2", *small]) == 0
    assert main(["test", "--ckpt_path", "last"]) == 0
    words = ["--data.classify", "[straße, maison]"]
    assert main(["predict", "--ckpt_path", "last", *words]) == 0, capsys.readouterr().err
    (table,) = Path.cwd().glob("lightning_logs/*/predictions.csv")
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_task_is_measured_for_networks_and_n_grams():
    from intff_lightning.reproduce.tasks.words import make_network, rows

    found = rows(0, "", quick=True)
    assert [row["algorithm"] for row in found] == ["channels", "bp", "logistic regression of letter n-grams"]
    assert all(10 < row["value"] < 100 for row in found)
    sizes = []
    for algorithm in ("channels", "bp"):  # the same layers, and a linear classifier behind them
        module = make_network(algorithm, 0.01, 0.1)
        module.hparams.update({"input_shape": [14], "num_classes": 10, "vocabulary": 254})
        module.configure_model()
        sizes.append(sum(parameter.numel() for parameter in module.parameters()))
    assert sizes[1] - sizes[0] == 97 * 10
