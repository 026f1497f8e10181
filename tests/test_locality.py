"""Section 6 of the paper as tests: no gradient crosses a unit's border; FF and stop-gradient give equal gradients."""

import functools

import pytest
import reference
import torch
from reference import local_loss, weights_of

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def _pair_goodness(unit, positive, negative):
    hp, hn = unit(positive), unit(negative)
    return hp, hn, unit.loss(unit.goodness(hp), unit.goodness(hn).unsqueeze(1), None, None)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_units_loss_moves_that_unit_alone(k, network, batches):
    module = network([7, 6], [5], [4, 3]).double()
    (batch,) = batches(dtype=torch.float64)
    positive, negative = module.encoder.positive(batch), module.encoder.negative(batch)
    for index, unit in enumerate(module.units):
        hp, hn, loss = _pair_goodness(unit, positive, negative)
        if index == k:
            loss.backward()
        positive, negative = hp.detach(), hn.detach()
    for index, unit in enumerate(module.units):
        gradients = [p.grad for p in unit.parameters()]
        assert all((g is not None and g.abs().max() > 0) == (index == k) for g in gradients)


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("update", ["immediate", "joint"])
def test_an_optimizer_moves_its_unit_alone(frozen, update, network, batches, trainer):
    module = network([7, 6], [5], [4, 3], optimizer=SGD, update=update)
    module.units[frozen].optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer().fit(module, batches(count=3))
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith(f"units.{frozen}.")


@pytest.mark.parametrize("update", ["immediate", "joint"])
def test_summed_losses_with_stop_gradient_give_the_same_gradients(update, network, batches, trainer):
    """Section 6.2: backpropagation of the sum, gradients stopped at every border, in float64."""
    module = network([7, 6], [5], [4, 3], optimizer=SGD, update=update).double()
    (batch,) = data = batches(dtype=torch.float64)
    weights = weights_of(module)
    trainer().fit(module, data)

    total, inputs = 0.0, [x.flatten(1) for x in reference.inputs(batch, 3)]
    for layers in weights:
        hidden = []
        for x in inputs:
            h = x / (x.norm(dim=1, keepdim=True) + 1e-4)
            for weight, bias in layers:
                h = torch.relu(h @ weight.T + bias)
            hidden.append(h)
        total = total + local_loss((hidden[0] ** 2).mean(1), (hidden[1] ** 2).mean(1).unsqueeze(1))
        inputs = tuple(h.detach() for h in hidden)
    total.backward()
    for unit, layers in zip(module.units, weights, strict=True):
        for layer, (weight, bias) in zip(list(unit.body)[1:], layers, strict=True):
            torch.testing.assert_close(layer[0].weight.grad, weight.grad, rtol=0, atol=1e-12)
            torch.testing.assert_close(layer[0].bias.grad, bias.grad, rtol=0, atol=1e-12)


def test_one_layer_units_are_forward_forward(network, batches, trainer):
    """Section 6.1: FF's rule for one ReLU layer, written out by hand, without autograd."""
    module = network([6], [5], optimizer=SGD).double()
    (batch,) = data = batches(dtype=torch.float64)
    weights = weights_of(module)
    trainer().fit(module, data)
    inputs = [x.flatten(1) for x in reference.inputs(batch, 3)]
    for unit, [(weight, bias)] in zip(module.units, weights, strict=True):
        gradient_w, gradient_b, outputs = 0.0, 0.0, []
        for x, sign in zip(inputs, (-1, 1), strict=True):
            x = x / (x.norm(dim=1, keepdim=True) + 1e-4)
            h = torch.relu(x @ weight.detach().T + bias.detach())
            g = (h**2).mean(1, keepdim=True)
            # d softplus(s (g - theta)) / dz = s sigmoid(s (g - theta)) 2 h / neurons, half of the mean over samples
            delta = 0.5 * sign * torch.sigmoid(sign * (g - 1.5)) * 2 * h / h.shape[1] / len(h)
            gradient_w = gradient_w + delta.T @ x
            gradient_b = gradient_b + delta.sum(0)
            outputs.append(h)
        torch.testing.assert_close(unit.body[1][0].weight.grad, gradient_w, rtol=0, atol=1e-14)
        torch.testing.assert_close(unit.body[1][0].bias.grad, gradient_b, rtol=0, atol=1e-14)
        inputs = outputs
