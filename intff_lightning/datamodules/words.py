"""The language of a word from its letters: words of ten languages in Latin script, with the lists of ``wordfreq``."""

import hashlib
import itertools
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError, check_choice

LETTERS = "".join(
    chr(code)
    for code in [*range(0x61, 0x180), *range(0x1E00, 0x1F00)]
    if unicodedata.name(chr(code), "").startswith("LATIN SMALL LETTER")
)
"""Small letters of Latin script up to U+1EFF, in the order of Unicode; letter number n has the id n + 1."""

LANGUAGES = ("cs", "de", "en", "es", "fi", "fr", "it", "nl", "pl", "pt")
"""The default languages: Czech, German, English, Spanish, Finnish, French, Italian, Dutch, Polish and Portuguese."""

Shared = Literal["most_frequent", "drop"]
"""What becomes of a word that is on several lists."""

_IDS = {letter: number for number, letter in enumerate(LETTERS, 1)}


def encode(words: Sequence[str], length: int) -> Tensor:
    """Return the letters of words as token ids ``(N, length)``, int64, padded with 0 at the end.

    Raises:
        DataError: A word is empty or longer, or has a character that is no small letter of Latin script.
    """
    rows = []
    for word in words:
        ids = [_IDS.get(letter, 0) for letter in unicodedata.normalize("NFC", word)]
        if not 0 < len(ids) <= length or 0 in ids:
            raise DataError(f"the word {word!r} cannot be read: 1 to {length} small Latin letters are needed.")
        rows.append(ids + [0] * (length - len(ids)))
    return torch.tensor(rows, dtype=torch.int64).view(-1, length)


def list_words(languages: Sequence[str], count: int, shortest: int, longest: int, shared: Shared) -> dict[str, str]:
    """Return words and their languages: for each language, its ``count`` most frequent words that can be read.

    Raises:
        ConfigurationError: ``wordfreq`` is not installed, or has no list of a language.
    """
    try:
        import wordfreq
    except ImportError:
        raise ConfigurationError('the lists of words are missing: pip install "intff-lightning[text]"') from None
    unknown = sorted({*languages} - {*wordfreq.available_languages("small")})
    if unknown:
        raise ConfigurationError(f"languages: wordfreq has no list of {', '.join(unknown)}.")
    found: dict[str, tuple[float, str]] = {}
    several: set[str] = set()
    for language in languages:
        frequencies = wordfreq.get_frequency_dict(language, wordlist="small")
        ranked = sorted(frequencies, key=lambda word: (-frequencies[word], word))
        readable = (word for word in ranked if shortest <= len(word) <= longest and {*word} <= _IDS.keys())
        chosen = list(itertools.islice(readable, count))
        if len(chosen) < count:
            warnings.warn(
                f"words={count}: the list of {language} has only {len(chosen)} words in small Latin letters.",
                stacklevel=2,
            )
        for word in chosen:
            if word in found:
                several.add(word)
            if word not in found or frequencies[word] > found[word][0]:
                found[word] = frequencies[word], language
    return {word: language for word, (_, language) in found.items() if shared == "most_frequent" or word not in several}


def shares(words: Iterable[str], seed: int) -> Tensor:
    """Return a number in [0, 1) for each word, float32 ``(N,)``: a function of (seed, word) alone."""
    hashes = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words]
    index = torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in hashes], dtype=torch.int64)
    return Draws(seed, 0, index).uniform()


class WordLanguageDataModule(PairedDataModule):
    """Words as sequences of letters, with the language as the class. It needs the extra ``text``, and no network.

    The words are the most frequent ones in the lists of the package wordfreq (Speer 2022), which are compiled from
    subtitles, Wikipedia, news, books and the web. Words with other characters than small letters are left out. The
    lists also have names and words of other languages, so no method can reach 100 %.

    Whether a word is for training, validation or test is a function of (``val_seed``, word) alone: other languages or
    more words do not move it.

    Args:
        languages: Codes of the languages; their order numbers the classes.
        words: Number of words per language, the most frequent first.
        shortest: Number of letters of the shortest words.
        longest: Number of letters T of the longest words, and of all sequences after padding.
        shared: What becomes of a word that is among the words of several languages: it belongs to the one where it is
            most frequent (``most_frequent``), or is left out (``drop``).
        test_size: Share of the words that are for test.
        val_size: Share of the words that are for validation.
        classify: Words of your own for ``trainer.predict``; ``None`` takes the test words.
        **options: Arguments of :class:`PairedDataModule`.
    """

    draws_test_samples = True

    def __init__(
        self,
        languages: Sequence[str] = LANGUAGES,
        words: int = 5000,
        shortest: int = 3,
        longest: int = 14,
        shared: Shared = "most_frequent",
        test_size: float = 0.2,
        val_size: float = 0.1,
        classify: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, vocabulary=len(LETTERS) + 1, num_classes=len(languages), **options)
        check_choice("shared", shared, Shared)
        if len({*languages}) < max(2, len(languages)):
            raise ConfigurationError(f"languages={list(languages)}: two or more are needed, each once.")
        if words < 1 or not 1 <= shortest <= longest:
            raise ConfigurationError(f"words={words}, shortest={shortest}, longest={longest}: 1 or more, in order.")
        if not 0 < test_size < 1 or not 0 <= val_size < 1 - test_size:
            raise ConfigurationError(f"test_size={test_size}, val_size={val_size}: shares of a sum below 1 are needed.")
        self.languages, self.words, self.shortest, self.longest = list(languages), words, shortest, longest
        self.shared, self.test_size, self.classify = shared, test_size, classify
        self._words: dict[str, str] | None = None

    def words_of(self, part: Part) -> tuple[list[str], list[str]]:
        """Return the words of a part and their languages, in an order that ``val_seed`` draws."""
        if self._words is None:
            found = list_words(self.languages, self.words, self.shortest, self.longest, self.shared)
            share, words = shares(found, self.val_seed), list(found)
            self._words = {words[number]: found[words[number]] for number in share.argsort(stable=True).tolist()}
        share = shares(self._words, self.val_seed)
        edges = {"test": (0.0, self.test_size), "val": (self.test_size, self.test_size + self.val_size)}
        low, high = edges.get(part, (self.test_size + self.val_size, 1.0))
        chosen = ((share >= low) & (share < high)).tolist()
        kept = [pair for pair, taken in zip(self._words.items(), chosen, strict=True) if taken]
        return [word for word, _ in kept], [language for _, language in kept]

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the words of a part as token ids ``(T,)``, or ``None`` if there are none."""
        if part == "predict":
            if self.classify is None:
                return None
            ids = encode(self.classify, self.longest)
            return InMemoryDataset(ids, torch.full((len(ids),), -1))
        if part == "val" and not self.val_size:
            return None
        words, languages = self.words_of(part)
        number = {language: number for number, language in enumerate(self.languages)}
        return InMemoryDataset(encode(words, self.longest), torch.tensor([number[language] for language in languages]))

    def divide(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Leave the training words together: :meth:`load` has divided off those for validation."""
        return torch.arange(len(train)), torch.arange(0)  # type: ignore[arg-type]  # map-style
