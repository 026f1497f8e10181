"""Seconds and peak activation memory against batch size, width, depth, number of classes, and data.

Lightning's Trainer trains ``IntFFModule`` (immediate and joint; with one wrong label per positive, so its units see
twice the batch) and ``BackpropModule`` on random images of MNIST's shape. A step lasts from the end of one batch to the
end of the next, loading included; memory is measured as in ``benchmarks.memory``. Over the number of classes,
classification is measured: a sweep of all labels, one pass of a network with goodness by class, and one pass of a
network trained by backpropagation. The rules take turns in one process.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from benchmarks.memory import peak_bytes, step_bytes
from benchmarks.opponents import (
    BP,
    BY_CLASS,
    IMMEDIATE,
    JOINT,
    PAPER,
    Network,
    Rule,
    Stopwatch,
    median_step,
    now,
    take_turns,
    train,
)
from benchmarks.results import Panel, add_device, add_quick, draw_lines, write
from intff_lightning.lightning_compat import quiet

HELP = "seconds and memory over batch size, width, depth, classes and data, against backpropagation"

BATCH, WIDTH, UNITS = 256, 512, 4  # unless they vary
STEPS: dict[
    str, tuple[Sequence[int], Callable[[int], tuple[Network, int]]]
] = {  # values; network and batch size for a value
    "batch size, images": ((64, 128, 256, 512, 1024, 2048), lambda n: (Network(((WIDTH,),) * UNITS), n)),
    "width, neurons": ((128, 256, 512, 1024, 2048), lambda n: (Network(((n,),) * UNITS), BATCH)),
    "units": ((2, 4, 8, 16, 32), lambda n: (Network(((WIDTH,),) * n), BATCH)),
}
CLASSES, CHANNELS, CLASSIFIED = (10, 50, 200, 1000), 1000, 64  # channels per unit: some for each class; images
IMAGES = (2048, 4096, 8192, 16384, 32768)
ROUNDS, STEPS_A_TURN = 3, 5
RULES = [IMMEDIATE, JOINT, BP]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)
    add_device(parser)


def main(arguments: argparse.Namespace) -> None:
    quiet()
    quick, device = arguments.quick, arguments.device
    rounds, steps = (1, 1) if quick else (ROUNDS, STEPS_A_TURN)
    torch.manual_seed(0)
    rows = [
        row
        for over, (places, make) in STEPS.items()
        for row in _steps(over, places[:2] if quick else places, make, rounds, steps, device)
    ]
    rows += _classes(CLASSES[:2] if quick else CLASSES, rounds, device)
    rows += _epochs([512, 1024] if quick else IMAGES, rounds, device)
    for before, after in pairwise(rows):  # two points of one line
        if (before["over"], before["what"]) == (after["over"], after["what"]):
            after["growth of seconds"] = _exponent(before, after, "seconds (median)")
            after["growth of MB"] = _exponent(before, after, "activations MB")
    note = (
        f"{device}; MB of 10^6 bytes. Growth is the slope between this row and the one before on logarithmic axes: 1 "
        "is proportional. Constant costs bend a line at its beginning: launching operations, the loop, and the first "
        "layer (784 pixels at any width, and the gradient of its weights at any batch size). The products of a layer "
        "grow with the square of the width. IntFF immediate keeps the activations of one unit, whatever the number of "
        "units. The memory of a sweep stops growing at `sweep_size` inputs per pass."
    )
    write("scaling", arguments.out, rows, note)
    draw_lines(arguments.out / "scaling.png", _panels(rows), columns=3)


def _row(over: str, place: int, what: str, seconds: Sequence[float], peak: int | None) -> dict[str, Any]:
    return {
        "over": over,
        "is": place,
        "what": what,
        "seconds (median)": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "activations MB": "" if peak is None else peak / 1e6,
        "growth of seconds": "",
        "growth of MB": "",
    }


def _exponent(before: dict[str, Any], after: dict[str, Any], key: str) -> Any:
    if "" in (before[key], after[key]):
        return ""
    ratios = torch.tensor([after[key] / before[key], after["is"] / before["is"]])
    return float(ratios[0].log() / ratios[1].log())


def _steps(
    over: str, places: Sequence[int], make: Callable[[int], tuple[Network, int]], rounds: int, steps: int, device: str
) -> list[dict[str, Any]]:
    found = {}
    for place in places:
        network, batch_size = make(place)
        turns = {rule.name: median_step(rule, network, batch_size, steps, device) for rule in RULES}
        times = take_turns(turns, rounds)
        for rule in RULES:
            peak, _ = step_bytes(rule, network, batch_size, device)
            found[rule.name, place] = _row(over, place, rule.name, times[rule.name], peak)
    return [found[rule.name, place] for rule in RULES for place in places]


def _classes(places: Sequence[int], rounds: int, device: str) -> list[dict[str, Any]]:
    """Measure the classification of a batch, with images and units that have room for the largest number of labels."""
    found, names = {}, {"IntFF, label sweep": IMMEDIATE, BY_CLASS.name: BY_CLASS, BP.name: BP}
    for place in places:
        network = Network(((CHANNELS,), (CHANNELS,)), shape=(1, 32, 32), classes=place)
        image = torch.rand(CLASSIFIED, *network.shape, device=device)
        ways = {name: functools.partial(rule.make(network).eval().to(device), image) for name, rule in names.items()}

        def seconds(way: Callable[[], Any]) -> float:
            start = now(device)
            way()
            return now(device) - start

        turns = {name: functools.partial(seconds, way) for name, way in ways.items()}
        with torch.inference_mode():
            take_turns(turns, 1)
            times = take_turns(turns, rounds)
            for name, way in ways.items():
                found[name, place] = _row("classes", place, name, times[name], peak_bytes(way, device))
    return [found[name, place] for name in names for place in places]


def _epochs(places: Sequence[int], rounds: int, device: str) -> list[dict[str, Any]]:
    """Measure the second epoch of the paper's network."""
    found = {}
    for place in places:

        def seconds(rule: Rule, place: int = place) -> float:
            watch = Stopwatch(device)
            train(rule.make(PAPER), PAPER, BATCH, place // BATCH, watch, device, epochs=2)
            return watch.epochs[1] - watch.epochs[0]

        times = take_turns({rule.name: functools.partial(seconds, rule) for rule in RULES}, rounds)
        for rule in RULES:
            found[rule.name, place] = _row("images", place, rule.name, times[rule.name], None)
    return [found[rule.name, place] for rule in RULES for place in places]


def _panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    titles = {"images": "an epoch, the paper's network", "classes": f"classification of {CLASSIFIED} images"}
    labels = {"seconds (median)": "seconds", "activations MB": "peak activations (MB)"}
    overs = list(dict.fromkeys(row["over"] for row in rows))
    places = [(over, key) for key in labels for over in overs[:3]] + [
        (over, key) for over in overs[3:] for key in labels
    ]
    panels = []
    for over, key in places:
        mine = [row for row in rows if row["over"] == over and row[key] != ""]
        lines = {
            name: ([r["is"] for r in mine if r["what"] == name], [r[key] for r in mine if r["what"] == name])
            for name in dict.fromkeys(row["what"] for row in mine)
        }
        if lines:
            panels.append(Panel(titles.get(over, "a training step"), over, labels[key], lines))
    return panels
