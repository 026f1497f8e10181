"""Goodness functions and heads of the field, against the papers' formulas in plain torch."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import ConvUnit, DenseUnit, IntFFModule, LinearHead, PatchGoodness
from intff_lightning import functional as F
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import GroupNormalization, LabelCrossEntropy, MeanActivation


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 2), (4, 5, 6)])
def test_mean_activation_is_deeperforwards(shape):
    """Its code is ``y.view(B, classes, -1).mean(2)``; channels of tokens are last."""
    h = torch.randn(shape)
    first = h.transpose(1, 2).contiguous() if len(shape) == 3 else h
    torch.testing.assert_close(F.mean_activation(h, 3), first.view(4, 3, -1).mean(2))
    torch.testing.assert_close(F.mean_activation(h), h.view(4, -1).mean(1))
    uneven = F.mean_activation(h, 4)  # channels 0 and 1, 2, 3 and 4, 5
    parts = [torch.cat([first[:, k].reshape(4, -1) for k in own], 1).mean(1) for own in ((0, 1), (2,), (3, 4), (5,))]
    torch.testing.assert_close(uneven, torch.stack(parts, 1))


def test_group_normalization_removes_the_goodness():
    h = torch.rand(4, 6, 3, 2)
    x = GroupNormalization(3)(h)
    torch.testing.assert_close(x, nn.GroupNorm(3, 6, affine=False)(h))
    torch.testing.assert_close(F.mean_activation(x, 3), torch.zeros(4, 3), atol=1e-6, rtol=0)
    layer = nn.LayerNorm([6, 3, 2], elementwise_affine=False)
    torch.testing.assert_close(GroupNormalization()(h), layer(h))
    torch.testing.assert_close(GroupNormalization(7)(h), layer(h))  # fewer channels than groups
    large = torch.full((1, 2, 2), 300.0, dtype=torch.float16)
    large[0, 0] = -300
    assert GroupNormalization()(large).abs().max() == 1  # the squares overflow float16


def test_patch_goodness_by_hand():
    h = torch.randn(2, 3, 4, 6)
    found = F.patch_goodness(h, 2).view(2, 3, 2, 2)
    for i in range(2):
        for j in range(2):
            patch = h[:, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            torch.testing.assert_close(found[:, :, i, j], patch.square().mean((2, 3)))


def test_no_more_patches_than_positions():
    h = torch.randn(2, 3, 2, 5)
    assert torch.equal(F.patch_goodness(h, 9), h.square().flatten(1))
    assert torch.equal(LinearHead(pool=9).features(h), h.flatten(1))


@pytest.mark.parametrize("sides", [(4, 4), (8, 8), (7, 8), (3, 12), (12, 5)])
def test_a_pooled_head_reads_what_adaptive_pooling_gives(sides):
    h = torch.randn(2, 3, *sides)
    expected = nn.functional.adaptive_avg_pool2d(h, [min(4, side) for side in sides])
    torch.testing.assert_close(LinearHead(pool=4).features(h), expected.flatten(1))


@pytest.mark.parametrize(
    "function", [F.mean_activation, F.group_normalize, functools.partial(F.patch_goodness, patches=2)]
)
def test_gradients_in_float64(function):
    assert torch.autograd.gradcheck(function, torch.rand(3, 2, 2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("goodness", [MeanActivation(), LinearHead(), LinearHead(pool=2), PatchGoodness(2)])
def test_half_precision_gives_float32(goodness):
    goodness.setup((6, 4, 4), 3)
    h = torch.randn(5, 6, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(goodness(h), goodness(h.detach()))
        assert goodness(h).dtype == goodness(h.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(goodness(h.bfloat16()), goodness(h), atol=0.05, rtol=0.05)


def _batch(size=16):
    torch.manual_seed(1)
    return torch.rand(size, 1, 8, 8), torch.randint(3, (size,))


def _loader(image, target):
    return DataLoader(TensorDataset(image, target), batch_size=len(target))


def _module(make, **options):
    torch.manual_seed(0)
    return IntFFModule(
        [ConvUnit([6], goodness=make()), ConvUnit([4], goodness=make())],
        loss=LabelCrossEntropy(threshold_weight=0.0),
        optimizer=functools.partial(torch.optim.SGD, lr=0.5),
        normalization=GroupNormalization(),
        input_shape=[1, 8, 8],
        num_classes=3,
        **options,
    )


@pytest.mark.parametrize("pool", [None, 2])
def test_a_step_with_heads_is_mono_forward(trainer, pool):
    """Each unit and its head take one step on the cross-entropy of the head, and nothing crosses the border."""
    module = _module(functools.partial(LinearHead, pool)).double()
    (image, target), reference = _batch(), []
    image = image.double()
    x = image
    for unit in module.units:
        conv, head = unit.body[0][0], unit.goodness.linear
        x = nn.functional.layer_norm(x, x.shape[1:])
        h = torch.max_pool2d(torch.relu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)), 2)
        features = (h if pool is None else nn.functional.adaptive_avg_pool2d(h, pool)).flatten(1)
        parameters = [conv.weight, conv.bias, head.weight, head.bias]
        loss = cross_entropy(features @ head.weight.T + head.bias, target)
        gradients = torch.autograd.grad(loss, parameters)
        reference += [(p, (p - 0.5 * g).detach()) for p, g in zip(parameters, gradients, strict=True)]
        x = h.detach()
    trainer(max_epochs=1, precision="64-true").fit(module, _loader(image, target))
    assert len(reference) == len(list(module.parameters()))
    for parameter, expected in reference:
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_map_of_patches_is_fixed_unless_learned(trainer):
    for learned in (False, True):
        module = _module(functools.partial(PatchGoodness, 2, learned))
        before = [unit.goodness.linear.weight.clone() for unit in module.units]
        module.requires_grad_(True)
        trainer(max_epochs=1).fit(module, _loader(*_batch()))
        for unit, weight in zip(module.units, before, strict=True):
            assert torch.equal(unit.goodness.linear.weight, weight) is not learned
        assert "units.1.goodness.linear.weight" in module.state_dict()


@pytest.mark.parametrize("make", [MeanActivation, LinearHead, PatchGoodness])
def test_a_checkpoint_rebuilds_it(trainer, make):
    module, run = _module(make), trainer(max_epochs=1)
    run.fit(module, _loader(*_batch()))
    run.save_checkpoint("heads.ckpt")
    image = _batch()[0]
    assert torch.equal(IntFFModule.load_from_checkpoint("heads.ckpt").eval()(image), module.eval()(image))


def test_a_frozen_unit_has_a_frozen_head():
    unit = DenseUnit([5], goodness=LinearHead()).requires_grad_(False)
    unit.setup((4,), 3)
    assert not any(p.requires_grad for p in unit.parameters())


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (DenseUnit([8], goodness=PatchGoodness(2)), r"PatchGoodness reads patches of maps \(C, H, W\)"),
        (DenseUnit([8], goodness=LinearHead(pool=5)), "LinearHead reads patches"),
        (DenseUnit([2], goodness=MeanActivation()), "2 channels for the 3 classes of MeanActivation"),
    ],
)
def test_activations_that_do_not_fit_are_refused(unit, message):
    with pytest.raises(ConfigurationError, match=message):
        unit.setup((1, 8, 8), 3)


@pytest.mark.parametrize("make", [lambda: LinearHead(pool=0), lambda: PatchGoodness(0), lambda: GroupNormalization(0)])
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ConfigurationError, match="1 or more"):
        make()
