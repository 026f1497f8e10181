"""The paper's equations: hand-computed values, float64 gradients, extremes."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import local_loss

from intff_lightning import functional as F
from intff_lightning.local import RMS, MeanSquares, SoftplusLoss, UnitL2


def test_unit_l2_by_hand():
    x = torch.tensor([[[3.0], [4.0]], [[0.0], [0.0]]])
    expected = torch.tensor([[[3 / 5.0001], [4 / 5.0001]], [[0.0], [0.0]]])
    torch.testing.assert_close(F.unit_l2_normalize(x), expected)
    torch.testing.assert_close(UnitL2(gain=20.0)(x), 20 * expected)


def test_rms_by_hand():
    x = torch.tensor([[1.0, 7.0], [0.0, 0.0]])
    torch.testing.assert_close(F.rms_normalize(x), torch.tensor([[1 / 5, 7 / 5], [0.0, 0.0]]))
    torch.testing.assert_close(RMS(gain=2.0)(x)[0], torch.tensor([2 / 5, 14 / 5]))


def test_goodness_by_hand():
    h = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert F.goodness(h).tolist() == [7.5]
    assert MeanSquares(selected=[1, 3])(h).tolist() == [10.0]


def test_softplus_loss_by_hand():
    positive, negative = torch.tensor([2.5, 1.5]), torch.tensor([[0.5], [1.5]])
    z = math.log(1 + math.exp(-1))
    assert float(F.softplus_loss(positive, negative)) == pytest.approx((z + math.log(2)) / 2)
    assert float(F.softplus_loss(positive, None)) == pytest.approx((z + math.log(2)) / 2)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=6), st.integers(1, 4), st.floats(0.1, 5))
def test_softplus_loss_is_the_plain_formula(positive, k, threshold):
    up = torch.tensor(positive, dtype=torch.float64)
    down = torch.rand(len(up), k, dtype=torch.float64) * 10
    torch.testing.assert_close(F.softplus_loss(up, down, threshold), local_loss(up, down, threshold))


def test_softplus_loss_does_not_overflow():
    for value in (1e4, 1e30):
        loss = F.softplus_loss(torch.tensor([0.0]), torch.tensor([[value]]))
        assert loss.isfinite()
        assert float(loss) == pytest.approx(value / 2, rel=1e-3)


@pytest.mark.parametrize("function", [F.unit_l2_normalize, F.rms_normalize, F.goodness])
def test_gradients_in_float64(function):
    x = torch.rand(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)


def test_gradient_of_the_loss_in_float64():
    positive = torch.rand(4, dtype=torch.float64, requires_grad=True)
    negative = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(F.softplus_loss, (positive, negative))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_float32_in_half_precision(dtype):
    h = torch.full((2, 1000), 1.25, dtype=dtype)
    assert F.goodness(h).dtype is torch.float32
    assert F.goodness(h).tolist() == [1.5625, 1.5625]
    large = torch.full((1, 4096), 100.0, dtype=dtype)  # a sum of squares of 4e7 overflows float16
    assert F.unit_l2_normalize(large).isfinite().all()
    assert F.unit_l2_normalize(large).dtype is dtype


def test_the_loss_falls_under_plain_gradient_descent():
    torch.manual_seed(0)
    weight = (0.3 * torch.randn(6, 8)).requires_grad_()
    positive, negative = torch.rand(32, 8), torch.rand(32, 8).roll(1, 1) ** 3
    loss_function = SoftplusLoss()
    losses = []
    for _ in range(200):
        goodness = [F.goodness(torch.relu(F.unit_l2_normalize(x, 5.0) @ weight.T)) for x in (positive, negative)]
        loss = loss_function(goodness[0], goodness[1].unsqueeze(1), torch.zeros(32), None)
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= 0.05 * gradient
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))
