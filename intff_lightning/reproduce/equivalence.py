"""Section 6 of the paper in numbers: IntFF's gradients are FF's, and those of a summed loss with stop-gradient."""

import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import relu, softplus
from torch.utils.data import DataLoader

from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.module import IntFFModule
from intff_lightning.optim import OptimizerFactory
from intff_lightning.pairs import PairedBatch
from intff_lightning.units import DenseUnit

_THETA = 1.5


def _batch() -> PairedBatch:
    """Return 128 of scikit-learn's digits with wrong labels, in float64."""
    data = DigitsDataModule(batch_size=128, seed=0).dataset("train")
    assert data is not None
    image, target, index = data.__getitems__(range(128))  # type: ignore[attr-defined]  # in memory
    image = image.double()
    wrong = (target + 1 + index % 9) % 10
    return PairedBatch(image, target, None, wrong.unsqueeze(1))


def _inputs(module: IntFFModule, batch: PairedBatch) -> Tensor:
    """Return the positive and then the negative network inputs, flattened."""
    return torch.cat([module.encoder.positive(batch), module.encoder.negative(batch)]).flatten(1)


def _still(parameters: Any) -> torch.optim.Optimizer:
    """Make an optimizer that leaves the weights, so that the gradients can be compared."""
    return torch.optim.SGD(parameters, lr=0.0)


def _module(units: list[list[int]]) -> IntFFModule:
    torch.manual_seed(0)
    factory: OptimizerFactory = _still
    return IntFFModule(
        [DenseUnit(widths) for widths in units], optimizer=factory, input_shape=[1, 10, 10], num_classes=10
    ).double()


def _of_intff(module: IntFFModule, batch: PairedBatch) -> list[Tensor]:
    """Return the gradients of one training step of the module itself, under Lightning."""
    trainer = L.Trainer(
        max_steps=1,
        limit_val_batches=0,
        precision="64-true",
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")  # one step needs none
        trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]  # a list is a dataset
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def _of_ff(module: IntFFModule, batch: PairedBatch) -> list[Tensor]:
    """Compute the gradients of Hinton's FF for one-layer units by hand, without automatic differentiation.

    With :math:`y = relu(W x + b)`, :math:`g = mean(y^2)` over n neurons, and the halved losses of both passes averaged
    over B samples, :math:`dL/dW = sum dL/dg (2 y / n) x^T`, where :math:`dL/dg` is :math:`-sigma(theta - g) / 2B` on
    positive and :math:`sigma(g - theta) / 2B` on negative data.
    """
    x, size = _inputs(module, batch), len(batch.target)
    sign = torch.tensor([-1.0, 1.0], dtype=x.dtype).repeat_interleave(size)
    gradients = []
    for unit in module.units:
        weight, bias = (parameter.detach() for parameter in unit.parameters())
        x = x / (x.norm(dim=1, keepdim=True) + 1e-4)
        y = relu(x @ weight.T + bias)
        by_goodness = sign * torch.sigmoid(sign * (y.square().mean(1) - _THETA)) / (2 * size)
        by_output = by_goodness.unsqueeze(1) * 2 * y / y.shape[1]
        gradients += [by_output.T @ x, by_output.sum(0)]
        x = y
    return gradients


def _of_summed_loss(module: IntFFModule, batch: PairedBatch) -> list[Tensor]:
    """Return the gradients of one backward pass of the summed local losses, with a stop-gradient before every unit."""
    x, size = _inputs(module, batch), len(batch.target)
    copies = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    remaining = iter(copies)
    total = torch.zeros((), dtype=x.dtype)
    for unit in module.units:
        x = x.detach()
        x = x / (x.norm(dim=1, keepdim=True) + 1e-4)
        for _ in range(sum(1 for _ in unit.parameters()) // 2):
            x = relu(x @ next(remaining).T + next(remaining))
        g = x.square().mean(1)
        total = total + 0.5 * softplus(_THETA - g[:size]).mean() + 0.5 * softplus(g[size:] - _THETA).mean()
    total.backward()  # type: ignore[no-untyped-call]  # torch's own is not annotated
    return [copy.grad for copy in copies if copy.grad is not None]


def equivalence() -> list[dict[str, Any]]:
    """Compare the gradients of IntFF's own training step with two independent computations, in float64.

    Returns:
        One row per claim: ``claim``, ``network``, ``largest_difference`` (absolute), ``relative`` (to the largest
        gradient).
    """
    claims = [
        ("IntFF with one-layer units = FF", "(100,100,50,30,10)", [[100], [50], [30], [10]], _of_ff),
        ("IntFF = summed loss with stop-gradient", "(100,(100,50),(30,10))", [[100, 50], [30, 10]], _of_summed_loss),
    ]
    rows = []
    for claim, network, units, other in claims:
        module = _module(units)
        batch = _batch()
        theirs = other(module, batch)
        ours = _of_intff(module, batch)
        difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        largest = max(float(gradient.abs().max()) for gradient in theirs)
        rows.append(
            {
                "table": "equivalence",
                "claim": claim,
                "network": network,
                "largest_difference": difference,
                "relative": difference / largest,
                "dtype": "float64",
            }
        )
    return rows
