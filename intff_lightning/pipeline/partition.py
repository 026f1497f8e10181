"""Dividing the units of a network among the stages of a pipeline, so that all of them take about as long."""

import contextlib
import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from rich.table import Table

from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import datamodule_of
from intff_lightning.module import IntFFModule
from intff_lightning.recipe import from_recipe
from intff_lightning.sequences import example


def balance(costs: Sequence[float], stages: int) -> list[range]:
    """Divide units into runs of consecutive ones, so that the most expensive run is as cheap as it can be.

    Args:
        costs: Cost of each unit.
        stages: Number of runs; each has one unit or more.

    >>> balance([1.0, 1.0, 1.0, 3.0], 2)
    [range(0, 3), range(3, 4)]
    """
    count = len(costs)
    best = {(0, 0): (0.0, 0)}  # (stages, units) -> (cost of the most expensive stage, first unit of the last one)
    for s in range(1, stages + 1):
        for end in range(s, count - stages + s + 1):
            starts = [start for start in range(s - 1, end) if (s - 1, start) in best]
            best[s, end] = min((max(best[s - 1, start][0], sum(costs[start:end])), start) for start in starts)
    runs, end = [], count
    for s in range(stages, 0, -1):
        start = best[s, end][1]
        runs.append(range(start, end))
        end = start
    return runs[::-1]


def given(sizes: Sequence[int], units: int) -> list[range]:
    """Return runs of units of the given sizes.

    Raises:
        ConfigurationError: They are not the units of the network.
    """
    if not sizes or min(sizes) < 1 or sum(sizes) != units:
        raise ConfigurationError(
            f"stages={list(sizes)}: give the number of units of each stage, 1 or more; together they are {units}."
        )
    ends = [sum(sizes[: s + 1]) for s in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def measure(module: IntFFModule, device: torch.device, context: Any, repeats: int = 5) -> list[float]:
    """Return the seconds that a training step of each unit takes, on copies of the units.

    Units that are alike are timed once: noise must not divide them unequally.

    Args:
        module: A network that is built.
        device: Device of the measurement.
        context: Makes the context of a forward pass (its precision).
        repeats: Number of timed steps; the fastest one counts.
    """
    datamodule, images = datamodule_of(module), 128
    if isinstance(datamodule, PairedDataModule):
        with contextlib.suppress(ConfigurationError):  # loaders of another datamodule may not tell it
            images = min(512, datamodule.batch_size)
    size, seconds = 2 * images, []
    known: dict[Any, float] = {}
    shape = module.encoder.output_shape
    with isolate_rng(), torch.enable_grad():
        for unit in module.units:
            alike = shape, repr(unit), repr(unit.optimizer)
            shape = unit.output_shape
            if alike in known:
                seconds.append(known[alike])
                continue
            trial = copy.deepcopy(unit).to(device)
            factory = from_recipe(unit.optimizer) or module.optimizer_factory
            optimizer = factory([p for p in trial.parameters() if p.requires_grad])
            x = example(alike[0], size, next(trial.parameters()))
            x = torch.rand_like(x) if x.is_floating_point() else x
            times = []
            for _ in range(1 + repeats):
                _synchronize(device)
                begun = time.perf_counter()
                optimizer.zero_grad()
                with context():
                    trial.goodness(trial(x)).float().mean().backward()
                optimizer.step()
                _synchronize(device)
                times.append(time.perf_counter() - begun)
            known[alike] = min(times[1:])
            seconds.append(known[alike])
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stage_table(module: IntFFModule, stages: Sequence[range], costs: Sequence[float] | None, replicas: int) -> Table:
    """Make the table of the stages: their units, parameters, and share of the measured time."""
    title = f"Pipeline of {len(stages)} stages" + (f", {replicas} replicas" if replicas > 1 else "")
    table = Table(title=title, title_justify="left")
    for name in ("stage", "units", "parameters", *(["share of time"] if costs else [])):
        table.add_column(name, justify="left" if name == "units" else "right")
    for number, units in enumerate(stages):
        parameters = sum(p.numel() for k in units for p in module.units[k].parameters())
        share = [f"{100 * sum(costs[k] for k in units) / sum(costs):.0f} %"] if costs else []
        table.add_row(str(number), unit_names(units), f"{parameters:,}", *share)
    return table


def unit_names(units: range) -> str:
    """Return ``unit_2``, or ``unit_2 to unit_4``."""
    return f"unit_{units[0]}" + (f" to unit_{units[-1]}" if len(units) > 1 else "")
