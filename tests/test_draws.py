"""Counter-based draws: the reference generator, independence of order, uniformity."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from intff_lightning.draws import Draws, splitmix64

MASK = (1 << 64) - 1


def _splitmix64(state):
    """Steele, Lea and Flood's generator in Python integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_splitmix64_equals_exact_arithmetic(state):
    ours = splitmix64(torch.tensor([state])).item() & MASK
    assert ours == _splitmix64(state & MASK)


def test_a_samples_draws_do_not_depend_on_its_batch():
    whole = Draws(7, 3, torch.arange(100))
    part = Draws(7, 3, torch.tensor([41, 5]))
    assert torch.equal(whole.integers(10, 4)[[41, 5]], part.integers(10, 4))
    assert torch.equal(whole.uniform(2, 3)[[41, 5]], part.uniform(2, 3))
    assert torch.equal(whole.permutations(9)[[41, 5]], part.permutations(9))


def test_draws_differ_between_seeds_epochs_samples_and_calls():
    index = torch.arange(50)
    base = Draws(1, 1, index)
    first, second = base.bits(), base.bits()
    others = [second, Draws(2, 1, index).bits(), Draws(1, 2, index).bits(), Draws(1, 1, index + 1).bits()]
    # a run's next epoch is not another seed's first one
    others += [Draws(0, 2, index).bits(), Draws(2, 0, index).bits()]
    assert all((first == other).sum() == 0 for other in others)


def test_draws_are_uniform():
    draws = Draws(0, 0, torch.arange(20000))
    counts = draws.integers(9, 1).flatten().bincount(minlength=9)
    chi2 = float(((counts - 20000 / 9) ** 2 / (20000 / 9)).sum())
    assert chi2 < 26.1  # 0.999 quantile at 8 degrees of freedom
    uniform = draws.uniform(4)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.005
    correlation = torch.corrcoef(uniform.T) - torch.eye(4)
    assert correlation.abs().max() < 0.03


def test_permutations_are_permutations_and_uniform():
    permutations = Draws(0, 0, torch.arange(6000)).permutations(3)
    assert torch.equal(permutations.sort(1).values, torch.arange(3).expand(6000, 3))
    codes = (permutations * torch.tensor([9, 3, 1])).sum(1)
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == 6
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 20.5  # 0.999 quantile at 5 degrees of freedom


def test_coarse_draws_are_parts_of_one_draw_and_uniform():
    draws, words = Draws(7, 3, torch.arange(500)), Draws(7, 3, torch.arange(500))
    coarse = draws.coarse(2, 9)  # 18 numbers from five draws
    bits = words.bits(5)
    expected = torch.stack([bits << shift >> 48 for shift in (48, 32, 16, 0)], 2).flatten(1)[:, :18] / 2**15
    assert torch.equal(coarse, expected.float().view(500, 2, 9))
    assert torch.equal(draws.bits(), words.bits())
    assert -1 <= coarse.min() < -0.99
    assert 0.99 < coarse.max() < 1
    counts = ((coarse.flatten() + 1) * 5).long().bincount(minlength=10)
    assert ((counts - 900.0).square() / 900).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001


def test_parts_of_draws_go_on_as_the_whole():
    whole, other = Draws(7, 3, torch.arange(10)), Draws(7, 3, torch.arange(10))
    for draws in (whole, other):
        draws.uniform(3)
    parts = torch.cat([part.uniform(4) for part in other.split(3)])
    assert torch.equal(parts, whole.uniform(4))
    assert [len(part) for part in other.split(3)] == [3, 3, 3, 1]
