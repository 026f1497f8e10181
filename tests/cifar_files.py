"""CIFAR-10's own file layout: pickles as Python 2 and its NumPy wrote them."""

import hashlib
import pickle
from typing import ClassVar

import numpy as np

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class _OldType:
    """A dtype as Python 2's NumPy pickled it: with numbers for its truth values."""

    def __reduce__(self):
        return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)


class OldArray:
    """An array as Python 2's NumPy pickled it."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        function, arguments, state = self.array.__reduce__()
        return function, arguments, (*state[:2], _OldType(), *state[3:])


class _Pickler(pickle._Pickler):
    """Writes strings as Python 2 did, as bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        raw = text.encode("latin1")
        short = len(raw) < 256
        self.write(
            (pickle.SHORT_BINSTRING if short else pickle.BINSTRING) + len(raw).to_bytes(1 if short else 4, "little")
        )
        self.write(raw)
        self.memoize(text)

    dispatch[str] = save_str


def write(path, content):
    with path.open("wb") as file:
        _Pickler(file, protocol=2).dump(content)
    return hashlib.md5(path.read_bytes()).hexdigest()
