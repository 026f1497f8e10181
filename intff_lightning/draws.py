"""Random draws that are a pure function of (seed, epoch, sample index, stream).

Negatives and augmentation must not depend on the history of a hidden generator: the same sample in the same epoch gets
the same draw on any number of processes, after a resume, and in any order of batches. A counter hash gives that without
a generator per sample.
"""

import math

import torch
from torch import Tensor

__all__ = ["Draws", "splitmix64"]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer: those of torch wrap around like unsigned ones."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(state: int) -> int:
    """:func:`splitmix64` of one number, in Python: a tensor for it would cost fifty times as much."""
    mask = (1 << 64) - 1
    z = (state + _GOLDEN) & mask
    z = ((z ^ (z >> 30)) * _MIX1) & mask
    z = ((z ^ (z >> 27)) * _MIX2) & mask
    return z ^ (z >> 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of a signed integer."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """One output of the SplitMix64 generator for every state (Steele, Lea and Flood 2014).

    The generator's n-th output, from 0, is that of ``state + n * 0x9E3779B97F4A7C15``.

    Args:
        state: int64 of any shape.

    Returns:
        int64 of the same shape, all 64 bits uniform.

    >>> splitmix64(torch.tensor([0])).item() == 0xE220A8397B1DCDAF - (1 << 64)  # Vigna's reference value for seed 0
    True
    """
    z = state + _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX2)
    return z ^ _shift_right(z, 31)


class Draws:
    """Random numbers for one batch of samples: a SplitMix64 generator for each, all advanced at once.

    Every call is a new, independent draw; two objects made with equal arguments give equal numbers.

    Args:
        seed: of the run.
        epoch: 0 where draws must not change between epochs (validation, test).
        index: ``(B,)`` int64, the samples' indices in their data set.
        stream: what the draws are for, where two things are drawn for the same samples: a batch of samples sorted by
            one draw has no randomness left in it.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor, stream: int = 0) -> None:
        # hashed one after the other, not added: neighbouring seeds, epochs and samples must not share draws
        self._state = splitmix64(index.to(torch.int64) ^ _signed(_mix(_mix(seed) ^ (stream << 48) ^ epoch)))
        self._drawn = 0

    @property
    def device(self) -> torch.device:
        """Where the draws are made."""
        return self._state.device

    def bits(self, *shape: int) -> Tensor:
        """Uniform 64-bit integers, int64 ``(B, *shape)``."""
        size = math.prod(shape)
        first = self._drawn
        self._drawn += size
        if size == 1:
            return splitmix64(self._state + _signed(first * _GOLDEN)).view(-1, *shape)
        step = torch.arange(first, first + size, device=self.device) * _signed(_GOLDEN)
        return splitmix64(self._state.unsqueeze(1) + step).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), ``(B, *shape)``."""
        return _shift_right(self.bits(*shape), 40).float() * 2.0**-24

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform int64 in [0, high), ``(B, *shape)``; the modulo bias is below ``high / 2**63``."""
        return (self.bits(*shape) & ((1 << 63) - 1)) % high

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32, ``(B, *shape)``, by the transform of Box and Muller (1958)."""
        radius = (-2 * torch.log1p(-self.uniform(*shape))).sqrt_()  # of 1 - u, which is never zero
        return radius * torch.cos(2 * math.pi * self.uniform(*shape))

    def permutations(self, count: int) -> Tensor:
        """A permutation of ``range(count)`` for every sample, int64 ``(B, count)``."""
        return self.bits(count).argsort(dim=1)

    def shuffle(self) -> Tensor:
        """One permutation of the batch, int64 ``(B,)``."""
        return self.bits().argsort()
