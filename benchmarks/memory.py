"""Peak activation memory of a training step, over the depth of the network, against backpropagation.

The peak counts the images of the batch and every tensor that the step makes, without the new gradients: parameters, old
gradients and optimizer states exist before the step. On the CPU, :class:`Tracker` follows the storage of each tensor
from the operation that makes it until nothing holds it; memory inside an operation is not seen. On a GPU it is the peak
of the allocator, less what was allocated when the step began. The second step is measured, because the first one makes
the state of the optimizer.

Lightning's Trainer trains every network by ``IntFFModule`` (with one wrong label per positive, so its units see twice
the batch, or with nine; by class, images show no label and units see the batch itself) and by ``BackpropModule``.
"""

import argparse
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.opponents import (
    BP,
    BY_CLASS,
    CHECKPOINTING,
    IMMEDIATE,
    JOINT,
    MICRO_BATCHES,
    NINE,
    NINE_IN_CHUNKS,
    Network,
    Rule,
    train,
)
from benchmarks.results import Panel, add_device, add_quick, draw_lines, write
from intff_lightning.lightning_compat import quiet
from intff_lightning.pairs import image_and_target

HELP = "peak activation memory of a training step over depth, against backpropagation"

DEPTHS = (4, 8, 16, 32, 64)
TWO_LAYERS = "dense, (512,512) a unit"
NETWORKS: dict[str, tuple[Callable[[int], Network], int]] = {  # made for a number of units, and the batch size
    "dense, (512) a unit": (lambda units: Network(((512,),) * units), 256),
    TWO_LAYERS: (lambda units: Network(((512, 512),) * units), 256),
    "convolution, 16C3 a unit": (lambda units: Network(((16,),) * units, conv=True), 32),
}
RULES = [
    IMMEDIATE,
    JOINT,
    BP,
    CHECKPOINTING,
    MICRO_BATCHES,
    Rule("BP, checkpointing, 4 micro-batches", CHECKPOINTING.make, micro_batches=4),
    Rule("IntFF immediate, 4 micro-batches", IMMEDIATE.make, micro_batches=4),
    BY_CLASS,
    NINE,
    NINE_IN_CHUNKS,
]


class Tracker(TorchDispatchMode):
    """Follows the storages that operations make inside a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int, str]] = []
        """Number of the storage, bytes by which it grew, and the operation."""
        self._sizes: list[int | None] = []  # by number; None for a storage that existed before
        self._numbers = WeakIdKeyDictionary()
        self._whole: set[Any] = set()  # operations that are not made of others

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._number(tensor, made=False)
        results: Any = NotImplemented
        if func not in self._whole:
            with self:  # an operation made of others, as inference mode hands on whole ones
                results = func.decompose(*args, **(kwargs or {}))
        if results is NotImplemented:
            self._whole.add(func)
            results = func(*args, **(kwargs or {}))
        for tensor in _tensors(results):
            number = self._number(tensor, made=True)
            before, size = self._sizes[number], tensor.untyped_storage().nbytes()
            if before is not None and before != size:
                self.events.append((number, size - before, str(func)))
                self._sizes[number] = size
        return results

    def _number(self, tensor: Tensor, made: bool) -> int:
        storage = tensor.untyped_storage()
        number: int | None = self._numbers.get(storage)
        if number is None:
            number = len(self._sizes)
            self._sizes.append(0 if made else None)
            self._numbers[storage] = number
            if made:
                weakref.finalize(storage, self._freed, number).atexit = False
        return number

    def _freed(self, number: int) -> None:
        self.events.append((number, -(self._sizes[number] or 0), "freed"))

    def peak(self, without: Iterable[Tensor] = ()) -> tuple[int, list[tuple[int, str]]]:
        """Most bytes alive at a time, and what they were then: bytes and the operation that made them.

        Args:
            without: tensors that do not count, from their beginning.
        """
        left_out = {self._numbers.get(tensor.untyped_storage()) for tensor in without}
        alive: dict[int, tuple[int, str]] = {}
        current = most = 0
        at_peak: list[tuple[int, str]] = []
        for number, size, name in self.events:
            if number in left_out:
                continue
            current += size
            if size < 0 and name == "freed":
                del alive[number]
            else:
                alive[number] = (alive.get(number, (0, ""))[0] + size, name)
            if current > most:
                most, at_peak = current, list(alive.values())
        return most, at_peak


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in what an operation takes or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


class StepMemory(L.Callback):
    """Measures the activations of each training batch, in bytes."""

    def __init__(self) -> None:
        self.peaks: list[int] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._tracker = Tracker()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._tracker.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() - self._before
        else:
            self._tracker.__exit__(None, None, None)
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            peak, self.at_peak = self._tracker.peak(without=gradients)
        self.peaks.append(peak + image_and_target(batch)[0].untyped_storage().nbytes())


def step_bytes(rule: Rule, network: Network, batch_size: int, device: str) -> tuple[int, int]:
    """Return the peak of activations in the second step, and the bytes of parameters, gradients and Adam's state."""
    torch.manual_seed(0)
    memory, module = StepMemory(), rule.make(network)
    train(module, network, batch_size, 2, memory, device, rule.micro_batches, wrong_labels=rule.wrong_labels)
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    return max(memory.peaks[rule.micro_batches :]), 4 * parameters  # Adam keeps two numbers per parameter


def peak_bytes(function: Callable[[], Any], device: str) -> int:
    """Return the largest number of bytes that a function holds at a time."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with Tracker() as tracker:
        function()
    return tracker.peak()[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)
    add_device(parser)


def main(arguments: argparse.Namespace) -> None:
    quiet()
    depths = (2, 4) if arguments.quick else DEPTHS
    networks = {name: of for name, of in NETWORKS.items() if not arguments.quick or name != TWO_LAYERS}
    peaks: dict[tuple[str, str], list[float]] = {}
    rows: list[dict[str, Any]] = []
    for kind, (make, batch_size) in networks.items():
        for rule in RULES:
            found = [step_bytes(rule, make(units), batch_size, arguments.device) for units in depths]
            peaks[kind, rule.name] = [peak / 1e6 for peak, _ in found]
            rows.append({"network": kind, "batch, images": batch_size, "rule": rule.name})
            rows[-1] |= {f"{d} units, MB": mb for d, mb in zip(depths, peaks[kind, rule.name], strict=True)}
            rows[-1]["parameters, gradients, Adam, MB"] = found[-1][1] / 1e6
            rows[-1]["total, MB"] = sum(found[-1]) / 1e6
    for row in rows:
        first, *_, last = peaks[row["network"], row["rule"]]
        row["growth %"] = 100 * (last / first - 1)
        for other in ("BP", "BP, checkpointing"):
            row[f"of {other}"] = last / peaks[row["network"], other][-1]
    note = (
        f"Peak activations of a training step ({arguments.device}), MB of 10^6 bytes. The columns after {depths[-1]} "
        "units are those of the deepest network: what is there beside activations, the total, growth since "
        f"{depths[0]} units, and shares of the activation peaks of BP."
    )
    write("memory", arguments.out, rows, note)
    panels = [
        Panel(kind, "units", "peak activations (MB)", {rule.name: (depths, peaks[kind, rule.name]) for rule in RULES})
        for kind in networks
    ]
    draw_lines(arguments.out / "memory.png", panels)
