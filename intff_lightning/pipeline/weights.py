"""The weights of a network whose units are in several processes."""

from collections.abc import Sequence
from typing import Any

import torch

from intff_lightning.module import IntFFModule
from intff_lightning.pipeline.layout import Exchange


def whole_state(module: IntFFModule, stages: Sequence[range], exchange: Exchange) -> dict[str, Any]:
    """Return the state of the whole network in rank 0; the others have meta tensors for units of other processes."""
    state = dict(module.state_dict())
    owners = [("encoder.", 0), *((f"units.{k}.", number) for number, units in enumerate(stages) for k in units)]
    for prefix, number in owners:  # unit by unit, or the message would be as large as the network
        part = {name: value for name, value in state.items() if name.startswith(prefix)}
        state.update(exchange.send_to_reporter(part, exchange.layout.rank(number)))
    return state


def return_units(module: IntFFModule, stages: Sequence[range], exchange: Exchange) -> None:
    """Give every process all units, on the CPU."""
    for number, units in enumerate(stages):
        for k in units:
            unit = module.units[k]
            if any(tensor.is_meta for tensor in unit.parameters()):
                unit.to_empty(device="cpu")
            else:
                unit.cpu()
            for tensor in [*unit.parameters(), *unit.buffers()]:
                exchange.fill(tensor, exchange.layout.rank(number))


def show_first_layer(module: IntFFModule, exchange: Exchange) -> None:
    """Give all processes the trained label encoder, and the first layer's weights for the figures."""
    assert module.stage is not None
    first = exchange.layout.rank(0)
    for parameter in module.encoder.parameters():
        parameter.detach().copy_(exchange.broadcast(parameter, first))
    weight = next((p.detach() for p in module.units[0].parameters() if p.ndim in (2, 4)), None)
    if weight is not None and exchange.layout.stages > 1:
        here = torch.empty(weight.shape, dtype=weight.dtype) if weight.is_meta else weight
        module.stage.first_weight = exchange.broadcast(here, first)
