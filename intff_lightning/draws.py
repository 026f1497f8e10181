"""Random draws that are a pure function of (seed, epoch, sample index, stream).

Negatives and augmentation must not depend on the history of a hidden generator: a sample gets the same draw in the same
epoch on any number of processes, after a resume, and in any order of batches. A counter hash does this without one
generator per sample.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """Return the same 64 bits as a signed integer; torch's signed integers wrap around like unsigned ones."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(state: int) -> int:
    """Compute :func:`splitmix64` of one number in Python; a tensor would take fifty times as long."""
    mask = (1 << 64) - 1
    z = (state + _GOLDEN) & mask
    z = ((z ^ (z >> 30)) * _MIX1) & mask
    z = ((z ^ (z >> 27)) * _MIX2) & mask
    return z ^ (z >> 31)


def derived_seed(*numbers: int) -> int:
    """Return a 64-bit seed that depends on all of these numbers and on their order."""
    state = 0
    for number in numbers:
        state = _mix(state ^ (number & ((1 << 64) - 1)))
    return state


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift a signed integer to the right as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """Return one output of the SplitMix64 generator for each state (Steele, Lea and Flood 2014).

    The n-th output of a generator, from 0, is the output for ``state + n * 0x9E3779B97F4A7C15``.

    Args:
        state: int64, any shape.

    Returns:
        int64 of the same shape, with 64 uniform bits.

    >>> splitmix64(torch.tensor([0])).item() == 0xE220A8397B1DCDAF - (1 << 64)  # Vigna's reference value for seed 0
    True
    """
    z = state + _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX2)
    return z ^ _shift_right(z, 31)


def sample_numbers(size: int, batch: int, rank: int = 0, loader: int = 0) -> Tensor:
    """Return numbers for the samples of a batch whose loader gives no indices, int64 ``(size,)``.

    They are distinct over batches below 2^27 with up to 2^20 samples, over ranks below 2^16 and over loaders.
    """
    first = (rank << 27 | batch) << 20
    numbers = torch.arange(first, first + size)
    return numbers ^ _signed(_mix(loader)) if loader else numbers


class Draws:
    """Random numbers for one batch of samples: one SplitMix64 generator per sample, all advanced at once.

    Every call is a new, independent draw. Two objects with equal arguments give equal numbers.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch; 0 if draws must not change between epochs (validation, test).
        index: Indices of the samples in their data set, ``(B,)`` int64.
        stream: Number of the purpose. Two purposes for the same samples need two streams: once samples are sorted by a
            draw, that draw is no longer random within a batch.

    Attributes:
        state: States of the generators, ``(B,)`` int64.
        drawn: Numbers that each generator has given.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor, stream: int = 0) -> None:
        # hashed in turn, not added: neighbouring seeds, epochs and samples must not share draws
        self.state = splitmix64(index.to(torch.int64) ^ _signed(_mix(_mix(seed) ^ (stream << 48) ^ epoch)))
        self.drawn = 0

    @property
    def device(self) -> torch.device:
        """Device of the draws."""
        return self.state.device

    def __len__(self) -> int:
        return len(self.state)

    def split(self, size: int) -> Iterator["Draws"]:
        """Yield the draws of ``size`` samples at a time, which go on from here; use them in place of these draws."""
        for part in torch.split(self.state, size):
            draws = copy.copy(self)
            draws.state = part
            yield draws

    def at(self, rows: Tensor) -> "Draws":
        """Return the draws of some samples, from the same place on; see :meth:`follow`."""
        draws = copy.copy(self)
        draws.state = self.state[rows]
        return draws

    def follow(self, other: "Draws") -> None:
        """Skip the numbers that draws returned by :meth:`at` have given since then."""
        self.drawn = other.drawn

    def bits(self, *shape: int) -> Tensor:
        """Draw uniform 64-bit integers, int64 ``(B, *shape)``."""
        size = math.prod(shape)
        first = self.drawn
        self.drawn += size
        if size == 1:
            return splitmix64(self.state + _signed(first * _GOLDEN)).view(-1, *shape)
        step = torch.arange(first, first + size, device=self.device) * _signed(_GOLDEN)
        return splitmix64(self.state.unsqueeze(1) + step).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Draw uniform float32 numbers in [0, 1), ``(B, *shape)``."""
        return _shift_right(self.bits(*shape), 40).float() * 2.0**-24

    def coarse(self, *shape: int) -> Tensor:
        """Draw uniform float32 numbers in [-1, 1) in steps of 2^-15, ``(B, *shape)``: four for the work of one."""
        size = math.prod(shape)
        parts = self.bits(-(-size // 4)).view(torch.int16)[:, :size]
        return (parts.float() * 2.0**-15).reshape(-1, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw uniform int64 numbers in [0, high), ``(B, *shape)``; the modulo bias is below ``high / 2**63``."""
        return (self.bits(*shape) & ((1 << 63) - 1)) % high

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal float32 numbers, ``(B, *shape)``, by the transform of Box and Muller (1958)."""
        radius = (-2 * torch.log1p(-self.uniform(*shape))).sqrt_()  # log(1 - u), and u is never 1
        return radius * torch.cos(2 * math.pi * self.uniform(*shape))

    def permutations(self, count: int) -> Tensor:
        """Draw a permutation of ``range(count)`` for each sample, int64 ``(B, count)``."""
        return self.bits(count).argsort(dim=1)

    def shuffle(self) -> Tensor:
        """Draw one permutation of the batch, int64 ``(B,)``."""
        return self.bits().argsort()
