"""The algorithm once more, as plain as it can be written: explicit loops, log(1 + exp), no class of the package."""

import torch


def forward(layers, x, gain=1.0):
    """One unit: layers is [(weight, bias), ...]."""
    x = x.flatten(1)
    h = gain * x / (torch.sqrt((x**2).sum(dim=1, keepdim=True)) + 1e-4)
    for weight, bias in layers:
        h = torch.clamp(h @ weight.T + bias, min=0)
    return h


def overlay(image, label, classes):
    """Images (B, *) with their labels (B,) in the first pixels, one by one."""
    shown = image.flatten(1).clone()
    for pixels, c in zip(shown, label.tolist(), strict=True):
        largest = float(pixels.max())
        pixels[:classes] = 0
        pixels[c] = largest
    return shown.view_as(image)


def inputs(batch, classes):
    """Positive inputs (B, *) and negative inputs (B * k, *), sample by sample, of a batch whose images stay."""
    image, target, _, wrong = batch
    k = wrong.shape[1]
    return overlay(image, target, classes), overlay(image.repeat_interleave(k, 0), wrong.flatten(), classes)


def local_loss(positive, negative, theta=1.5):
    """positive (B,), negative (B, k)."""
    up = torch.log(1 + torch.exp(theta - positive)).mean()
    down = torch.log(1 + torch.exp(negative - theta)).mean()
    return (up + down) / 2


def train(units, make_optimizer, batches, classes, inner_steps=1, handover="before", gain=1.0):
    """Train weights in place, unit by unit; returns the last batch's losses, all inner steps of all units."""
    optimizers = [make_optimizer([p for pair in layers for p in pair]) for layers in units]
    history = []
    for batch in batches:
        (positive, negative), losses = inputs(batch, classes), []
        for layers, optimizer in zip(units, optimizers, strict=True):
            for step in range(inner_steps):
                hp, hn = forward(layers, positive, gain), forward(layers, negative, gain)
                if step == 0:
                    first = hp.detach(), hn.detach()
                loss = local_loss((hp**2).mean(1), (hn**2).mean(1).view(len(hp), -1))
                gradients = torch.autograd.grad(loss, [p for pair in layers for p in pair])
                for p, g in zip([p for pair in layers for p in pair], gradients, strict=True):
                    p.grad = g
                optimizer.step()
                losses.append(float(loss.detach()))
            if handover == "before":
                positive, negative = first
            else:
                with torch.no_grad():
                    positive, negative = forward(layers, positive, gain), forward(layers, negative, gain)
        history.append(losses)
    return history


def weights_of(module):
    """Copies of a module's dense units, as [(weight, bias), ...] per unit."""
    return [
        [
            (layer[0].weight.detach().clone().requires_grad_(), layer[0].bias.detach().clone().requires_grad_())
            for layer in list(unit.body)[1:]
        ]
        for unit in module.units
    ]


def largest_difference(module, units):
    """Largest absolute difference between a module's weights and the reference's."""
    return max(
        float((a - b).detach().abs().max())
        for mine, theirs in zip(weights_of(module), units, strict=True)
        for pair in zip(mine, theirs, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def layers_of(module, *kinds):
    """Return the layers of these kinds in a network, without the heads of its units."""
    return [layer for name, layer in module.named_modules() if isinstance(layer, kinds) and "goodness" not in name]
