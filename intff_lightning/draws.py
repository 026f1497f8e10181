"""Random draws that are a pure function of (seed, epoch, sample index, stream).

Negatives and augmentation must not depend on the history of a hidden generator: the same sample in the same epoch gets
the same draw on any number of processes, after a resume, and in any order of batches. A counter hash gives that without
a generator per sample.
"""

import math

import torch
from torch import Tensor

__all__ = ["Draws", "splitmix64"]

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit integers, which wrap around like unsigned ones
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of a signed integer."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """One output of the SplitMix64 generator for every state (Steele, Lea and Flood 2014).

    Args:
        state: int64 of any shape.

    Returns:
        int64 of the same shape, all 64 bits uniform.

    >>> splitmix64(torch.tensor([0])).item() == 0xE220A8397B1DCDAF - (1 << 64)  # Vigna's reference value for seed 0
    True
    """
    z = state + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX1
    z = (z ^ _shift_right(z, 27)) * _MIX2
    return z ^ _shift_right(z, 31)


class Draws:
    """Random numbers for one batch of samples.

    Every call is a new, independent draw; two objects made with equal arguments give equal numbers.

    Args:
        seed: of the run.
        epoch: 0 where draws must not change between epochs (validation, test).
        index: ``(B,)`` int64, the samples' indices in their data set.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor) -> None:
        key = splitmix64(torch.tensor([seed, epoch], dtype=torch.int64))
        # chained, not added: neighbouring seeds and epochs must not share draws
        self._state = splitmix64(index.to(torch.int64) ^ splitmix64(key[:1] * 31 + key[1:]).to(index.device))
        self._stream = 0

    @property
    def device(self) -> torch.device:
        """Where the draws are made."""
        return self._state.device

    def bits(self, *shape: int) -> Tensor:
        """Uniform 64-bit integers, int64 ``(B, *shape)``."""
        self._stream += 1
        size = math.prod(shape)
        lane = torch.arange(size, dtype=torch.int64, device=self.device)
        stream = splitmix64(self._state + self._stream)
        return splitmix64(stream.unsqueeze(1) ^ splitmix64(lane)).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), ``(B, *shape)``."""
        return _shift_right(self.bits(*shape), 40).float() * 2.0**-24

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform int64 in [0, high), ``(B, *shape)``; the modulo bias is below ``high / 2**63``."""
        return _shift_right(self.bits(*shape), 1) % high

    def permutations(self, count: int) -> Tensor:
        """A permutation of ``range(count)`` for every sample, int64 ``(B, count)``."""
        return self.bits(count).argsort(dim=1)

    def shuffle(self) -> Tensor:
        """One permutation of the batch, int64 ``(B,)``."""
        return self.bits().argsort()
