"""The paper's equations: hand-computed values, float64 gradients, extremes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import local_loss

from intff_lightning import functional as F
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    LabelCrossEntropy,
    MeanSquares,
    SoftplusLoss,
    SumSquares,
    SymBaLoss,
    TopGoodness,
    UnitL2,
)


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


@pytest.mark.parametrize("shape", [(3, 6), (3, 7), (3, 6, 2, 2), (3, 7, 2, 2), (3, 4, 6), (3, 4, 7)])  # 7 are uneven
def test_gradients_of_class_goodness_in_float64(shape):
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: F.channel_goodness(h, 3), x)
    assert F.channel_goodness(x[:0], 3).shape == (0, 3)


@pytest.mark.parametrize(
    "measure", [F.goodness, lambda h: F.channel_goodness(h, 3), lambda h: F.channel_goodness(h, 4)]
)
def test_goodness_of_channels_last_keeps_their_format_in_the_backward_pass(measure):
    """A gradient in the other format would make the backward pass of the pooling before it three times as slow."""
    h = torch.rand(3, 6, 4, 2, dtype=torch.float64, requires_grad=True)
    last = h.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(measure, last)
    torch.testing.assert_close(measure(last), measure(h))
    gradients = [torch.autograd.grad(measure(x).square().sum(), x)[0] for x in (h, last)]
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].is_contiguous()
    assert gradients[1].is_contiguous(memory_format=torch.channels_last)


def test_goodness_is_differentiated_twice_and_by_sample():
    h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(F.goodness, h)
    assert torch.autograd.gradgradcheck(lambda x: F.channel_goodness(x, 3), h)
    by_sample = torch.func.vmap(torch.func.grad(lambda x: F.goodness(x.unsqueeze(0)).sum()))(h.detach())
    torch.testing.assert_close(by_sample, 2 * h.detach() / 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [6, 7])
def test_goodness_is_float32_under_autocast(dtype, channels):
    h = torch.full((2, channels, 32, 32), 10.0, requires_grad=True)  # a sum of squares above float16's largest number
    with torch.autocast("cpu", dtype):
        for x in (h, h[..., 0, 0], h.detach()):
            by_class = F.channel_goodness(x, 3)
            assert by_class.dtype == F.goodness(x).dtype == torch.float32
            torch.testing.assert_close(by_class, torch.full((2, 3), 100.0))
            torch.testing.assert_close(F.goodness(x), torch.full((2,), 100.0))
        loss = F.channel_goodness(h[..., 0, 0], 3).sum()
    loss.backward()
    assert h.grad.isfinite().all()


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


@pytest.mark.parametrize("k", [1, 4, 9])
def test_label_cross_entropy_is_torchs_and_symbas(k):
    goodness = torch.randn(32, 1 + k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    ours = F.label_cross_entropy(goodness[:, 0], goodness[:, 1:])
    first = torch.zeros(32, dtype=torch.int64)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(goodness, first))
    if k == 1:
        symba = torch.nn.functional.softplus(goodness[:, 1] - goodness[:, 0]).mean()
        torch.testing.assert_close(ours, symba)


def test_label_cross_entropy_does_not_overflow():
    assert F.label_cross_entropy(torch.tensor([1e4]), torch.tensor([[0.0]])) == 0
    assert F.label_cross_entropy(torch.tensor([0.0]), torch.tensor([[1e4]])) == 1e4


def test_the_label_loss_mixes_its_parts_and_counts_the_units_before():
    generator = torch.Generator().manual_seed(0)
    positive, before = torch.rand(2, 16, generator=generator, dtype=torch.float64) * 3
    negative, wrong_before = torch.rand(2, 16, 9, generator=generator, dtype=torch.float64) * 3
    target = torch.zeros(16, dtype=torch.int64)
    softplus = F.softplus_loss(positive, negative, 1.5)
    for weight, collaboration in ((0.0, 0.0), (0.3, 0.0), (0.3, 0.5), (1.0, 0.5)):
        loss = LabelCrossEntropy(threshold_weight=weight, collaboration=collaboration)
        logits = torch.cat([positive[:, None], negative], 1) + collaboration * torch.cat(
            [before[:, None], wrong_before], 1
        )
        expected = (1 - weight) * torch.nn.functional.cross_entropy(logits, target) + weight * softplus
        torch.testing.assert_close(loss(positive, negative, target, (before, wrong_before)), expected)
        alone = (1 - weight) * F.label_cross_entropy(positive, negative) + weight * softplus
        torch.testing.assert_close(loss(positive, negative, target, None), alone)
    with pytest.raises(ConfigurationError, match="no negatives"):
        loss(positive, None, target, None)
    with pytest.raises(ConfigurationError, match="threshold_weight=2"):
        LabelCrossEntropy(threshold_weight=2)


def test_the_label_loss_falls_under_gradient_descent():
    goodness = torch.zeros(8, 10, requires_grad=True)
    losses = []
    for _ in range(20):
        loss = LabelCrossEntropy()(goodness[:, 0], goodness[:, 1:], torch.zeros(8), None)
        (gradient,) = torch.autograd.grad(loss, goodness)
        with torch.no_grad():
            goodness -= gradient
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


# -------------------------------------------------------------------- the ends of the ranges

HALF = [torch.float16, torch.bfloat16]
every_half = pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])


@st.composite
def _extreme(draw, dtype, shape, low=-1.0, most=math.inf):
    """Numbers of any size in the range of a dtype: zeros, subnormal numbers, the largest ones."""
    limits = torch.finfo(dtype)
    largest = min(most, limits.max)
    exponent = st.floats(math.log2(limits.smallest_normal) - 6, math.log2(largest))
    sizes = [0.0, largest, limits.smallest_normal, 2.0 ** draw(exponent)]
    signs = st.sampled_from([1.0, low])
    values = [draw(st.sampled_from(sizes)) * draw(signs) for _ in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).clamp(-largest, largest).to(dtype).view(shape)


@every_half
@pytest.mark.parametrize("part", [UnitL2(1), UnitL2(20), UnitL2(20, eps=1e-8), RMS(1), RMS(20), RMS(20, eps=1e-12)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_normalizations_hold_in_the_whole_range_of_half_precision(part, dtype, data):
    x = data.draw(_extreme(dtype, (2, 12)))
    found, exact = part(x), part(x.double())
    assert found.dtype is dtype
    limits = torch.finfo(dtype)
    torch.testing.assert_close(found.double(), exact, rtol=limits.eps, atol=limits.smallest_normal * limits.eps)
    scaled = part.scale(F.l2_norm(x).unsqueeze(1), 12) * x  # what a unit that reads label and image apart computes
    torch.testing.assert_close(scaled.double(), exact, rtol=1e-5, atol=1e-30)


@every_half
@pytest.mark.parametrize(
    "part", [MeanSquares(), MeanSquares([0, 11]), SumSquares(), TopGoodness(0.5), ChannelGoodness()]
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_goodness_holds_in_the_whole_range_of_half_precision(part, dtype, data):
    h = data.draw(_extreme(dtype, (2, 12)))
    part.setup((12,), 3)
    found, exact = part(h), part(h.double())
    assert found.dtype is torch.float32
    inside = exact < torch.finfo(torch.float32).max / 12  # of the squares of bfloat16, float32 holds not all
    torch.testing.assert_close(found.double()[inside], exact[inside], rtol=1e-6, atol=1e-37)
    assert (found[~inside] > 1e37).all()  # infinite at most, and never not a number


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("loss", [SoftplusLoss(), SymBaLoss(), LabelCrossEntropy(collaboration=1.0, temperature=0.5)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_losses_hold_in_the_whole_range_of_goodness(loss, dtype, data):
    """Up to 1e30, so that float32 holds the sums; values and gradients are those in float64."""
    pairs = [data.draw(_extreme(dtype, (3, 3), low=1.0, most=1e30)) for _ in range(2)]
    found, exact = [], []
    for results, precision in ((found, dtype), (exact, torch.float64)):
        own, before = (pair.detach().to(precision, copy=True).requires_grad_() for pair in pairs)
        value = loss(own[:, 0], own[:, 1:], torch.zeros(3), (before[:, 0], before[:, 1:]))
        value.backward()
        results += [value.detach(), own.grad]
    assert found[0].dtype is torch.float32
    # a small difference of large numbers is as exact as these are in float32
    largest = float(max(pair.detach().abs().max() for pair in pairs))
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-7 * max(1, largest))
    assert found[1].isfinite().all()


@every_half
def test_a_silent_unit_stays_silent(dtype):
    silent = torch.zeros(2, 5, dtype=dtype)
    for part in (UnitL2(20), RMS(20), UnitL2(1e4), RMS(1e3)):
        assert torch.equal(part(silent), silent)


def test_which_scores_name_a_class():
    inf, nan = torch.inf, torch.nan
    scores = torch.tensor([[0.0, 1.0], [-inf, 1.0], [inf, 1.0], [nan, 1.0], [1.0, nan], [-inf, -inf]])
    assert F.is_decided(scores).tolist() == [True, True, False, False, False, False]
