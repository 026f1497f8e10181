"""Classification by goodness: a sweep of all labels by ``label_goodness``, against one pass of the network per label.

In the first layer, the sweep reads each image once for all of its labels. One pass per label puts the label into the
image by the module's own encoder and asks for ``goodness``. Both take turns in one process, on the same images, and
must give equal scores. The ceiling is the ratio of the floating-point operations that PyTorch counts in the two (matrix
products and convolutions): what the sweep would gain if nothing else took time.
"""

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_bytes
from benchmarks.opponents import PAPER, Network, now, quiet_trainer, take_turns
from benchmarks.results import Panel, add_device, add_quick, draw_lines, write
from intff_lightning import IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import InMemoryDataset, MNISTDataModule, PairedDataModule
from intff_lightning.lightning_compat import quiet

HELP = "trying every label at once, against one pass per label"

WIDTHS = (50, 500, 1000, 2000)
BATCH = 256
BATCHES = 8  # per turn
ROUNDS = 15
CLASSES = (10, 100, 1000)
IMAGES = 10_000


def separate(module: IntFFModule, image: Tensor) -> Tensor:
    """Return the goodness of every unit under every label, ``(U, B, C)``, by one pass per label."""
    labels = [torch.full((len(image),), c, device=image.device) for c in range(module.encoder.num_classes)]
    return torch.stack([module.goodness(module.encoder(image, label)) for label in labels], dim=2)


def operations(function: Any) -> int:
    """Count the floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)
    add_device(parser)


def main(arguments: argparse.Namespace) -> None:
    quiet()
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = _speed(arguments)
        memory = _memory(arguments)
    note = (
        f"Classification on {arguments.device}, batches of {BATCH} random images, 10 classes, {len(rows)} networks; "
        f"medians of rounds in which the two took turns, {BATCHES} batches each."
    )
    write("inference", arguments.out, rows, note)
    note = (
        "Peak memory of one sweep (MB of 10^6 bytes), 256 random images of 32x32 pixels, hidden layers of the paper's "
        "network. The result is the goodness of every unit under every label, (2, 256, classes), in float32."
    )
    write("inference_memory", arguments.out, memory, note)
    write("inference_mnist", arguments.out, _evaluation(arguments), "Goodness-argmax of the paper's network.")
    sweep = {"measured": "ratio (median)", "ceiling by operations": "ceiling"}
    wide = [row for row in rows if row["network"] != "the paper's"]
    lines = {name: ([r["width, neurons"] for r in wide], [r[key] for r in wide]) for name, key in sweep.items()}
    sizes = {key.removesuffix(", MB"): key for key in memory[0] if key.endswith(", MB")}
    peaks = {name: ([r["classes"] for r in memory], [r[key] for r in memory]) for name, key in sizes.items()}
    panels = [
        Panel("One pass per label / sweep of labels", "width of the first unit's layers", "ratio of seconds", lines),
        Panel("Memory of the sweep", "classes", "peak (MB)", peaks),
    ]
    draw_lines(arguments.out / "inference.png", panels)


def _speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    widths, rounds = ((8,), 2) if arguments.quick else (WIDTHS, ROUNDS)
    networks = {"the paper's": PAPER} | {f"(784,({w},{w},{w}),(50,50))": Network(((w,) * 3, (50, 50))) for w in widths}
    rows = []
    for name, network in networks.items():
        module = network.intff().eval().to(arguments.device)
        image = torch.rand(BATCH, *network.shape, device=arguments.device)
        ways = {
            "sweep": functools.partial(module.label_goodness, image),
            "separate": functools.partial(separate, module, image),
        }
        scores = [way() for way in ways.values()]
        torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)  # the order of sums differs

        def seconds(way: Any) -> float:
            start = now(arguments.device)
            for _ in range(BATCHES):
                way()
            return now(arguments.device) - start

        times = take_turns({key: functools.partial(seconds, way) for key, way in ways.items()}, rounds)
        ratios = [b / a for a, b in zip(times["sweep"], times["separate"], strict=True)]
        flops = [operations(way) for way in ways.values()]
        rows.append(
            {
                "network": name,
                "width, neurons": network.widths[0][0],
                **{f"{key}, images/s": BATCH * BATCHES / statistics.median(v) for key, v in times.items()},
                "ratio (median)": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
                "ceiling": flops[1] / flops[0],
                "scores differ by at most": float((scores[0] - scores[1]).abs().max() / scores[1].abs().max()),
            }
        )
    return rows


def _memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for classes in CLASSES[: 2 if arguments.quick else None]:
        network = Network(PAPER.widths, shape=(1, 32, 32), classes=classes)
        module = network.intff().eval().to(arguments.device)
        image = torch.rand(BATCH, *network.shape, device=arguments.device)
        module.label_goodness(image)  # lets the libraries of a GPU allocate what they keep
        rows.append(
            {
                "classes": classes,
                "inputs at a time": module.inputs_per_pass(module.device),
                "sweep, MB": peak_bytes(functools.partial(module.label_goodness, image), arguments.device) / 1e6,
                "one pass per label, MB": peak_bytes(functools.partial(separate, module, image), arguments.device)
                / 1e6,
                "result, MB": 4 * len(module.units) * BATCH * classes / 1e6,
            }
        )
    return rows


def _evaluation(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure seconds for MNIST's test images, by the module alone and by ``trainer.test`` with the callback."""
    data: PairedDataModule
    if (Path(arguments.data_dir) / "MNIST").is_dir() and not arguments.quick:
        data, what = MNISTDataModule(arguments.data_dir, batch_size=BATCH), "test images of MNIST"
        test: Any = data.dataset("test")
    else:
        size = 500 if arguments.quick else IMAGES
        test = InMemoryDataset(torch.randint(256, (size, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (size,)))
        data, what = PairedDataModule(test=test, num_classes=10, batch_size=BATCH), "random images"
    module = PAPER.intff().eval().to(arguments.device)

    def alone() -> float:
        start = now(arguments.device)
        with torch.inference_mode():
            for image in test.image.split(BATCH):
                module(image.to(arguments.device).float() / 255).argmax(1)
        return now(arguments.device) - start

    def tested() -> float:
        trainer = quiet_trainer(arguments.device, callbacks=[GoodnessAccuracy()])
        start = now(arguments.device)
        trainer.test(module, data, verbose=False)
        seconds = now(arguments.device) - start
        module.to(arguments.device)  # the trainer may leave it on another device
        return seconds

    ways = {"module(image).argmax(1)": alone, "trainer.test, GoodnessAccuracy": tested}
    for way in ways.values():
        way()
    times = take_turns(ways, 2 if arguments.quick else 5)
    return [
        {
            "what": name,
            "images": f"{len(test)} {what}",
            "seconds (median)": statistics.median(v),
            "min": min(v),
            "max": max(v),
        }
        for name, v in times.items()
    ]
