"""Images per second, bytes sent and memory of a pipeline over units, against one process, DDP and backpropagation.

Each measurement starts processes of its own. All ways are measured in turns, and ratios are within a round, because the
speed of a machine that others use drifts over minutes. IntFF is trained by Lightning with the default callbacks and
loggers. Backpropagation of the same layers is trained by the schedules of ``torch.distributed.pipelining`` in a plain
loop, which is compared with the same loop in one process. Every process has one thread, unless the table says two.

The model of time (``benchmarks/pipeline_model.py``) takes the times of units, and of loading and logging, from training
in one process while a copy of it keeps the other core busy, and those of messages from two processes that do nothing
else. Its figure is for 64 units as in the first network, whose times are scaled for faster devices.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.opponents import take_turns
from benchmarks.pipeline_model import LINKS, Link, batch_seconds
from benchmarks.pipeline_worker import NETWORKS
from benchmarks.results import Panel, add_quick, draw_lines, write

HELP = "pipeline over units: images per second, bytes, memory, and a model of time, against other ways to use processes"

ROOT = Path(__file__).parents[1]
ONE, LOOP, PIPELINE = "IntFF, one process", "BP, one process (loop)", "IntFF, unit_pipeline"
WAYS = {  # what the worker does, number of processes, threads of each
    ONE: ("IntFF", 1, 1),
    "IntFF, one process, 2 threads": ("IntFF", 1, 2),
    "IntFF, ddp": ("DDP", 2, 1),
    "IntFF, ddp, averages in turn": ("DDP_in_turn", 2, 1),
    PIPELINE: ("pipeline", 2, 1),
    f"{PIPELINE}, 4 stages": ("pipeline", 4, 1),
    LOOP: ("loop", 1, 1),
    **{
        f"BP, {kind}, {parts} micro-batches": (f"{kind} {parts}", 2, 1)
        for kind in ("GPipe", "1F1B")
        for parts in (4, 8)
    },
}
COMPARED = list(NETWORKS)[:2]  # by all ways; the other networks check the model
BATCHES = {name: 150 if name.startswith("dense") else 30 for name in NETWORKS}  # after the first, slower ones
ROUNDS, MODEL_ROUNDS = 5, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)


def main(arguments: argparse.Namespace) -> None:
    batches = dict.fromkeys(NETWORKS, 4) if arguments.quick else BATCHES
    rounds, rows = 1 if arguments.quick else ROUNDS, []
    for network in COMPARED[: 1 if arguments.quick else None]:
        found: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in WAYS}

        def turn(way: str, network: str = network, found: Any = found) -> float:
            found[way].append(_run(*WAYS[way], network, batches[network]))
            return float(found[way][-1][0]["seconds"])

        seconds = take_turns({way: (lambda way=way: turn(way)) for way in WAYS}, rounds)
        rows += [_row(way, network, seconds, found[way][-1]) for way in WAYS]
    note = (
        f"Medians of {rounds} rounds, and the least and the greatest speed-up of a round. Speed-up and efficiency "
        "(speed-up divided by the number of processes) are against one process of the same kind in the same round: "
        "IntFF against IntFF, BP against the plain loop. IntFF trains on twice the inputs of BP, because every image "
        "has a negative. DDP averages the gradients of a unit while the next one is computed, or before it (in turn). "
        "MB of 10^6 bytes in the largest process: parameters and optimizer states; growth of the resident memory since "
        "the process began; bytes sent per batch."
    )
    write("pipeline", arguments.out, rows, note)
    _model(arguments, batches, 1 if arguments.quick else MODEL_ROUNDS)


def _row(way: str, network: str, seconds: dict[str, list[float]], processes: list[dict[str, Any]]) -> dict[str, Any]:
    base = seconds[ONE if way.startswith("IntFF") else LOOP]
    faster = [one / this for one, this in zip(base, seconds[way], strict=True)]
    return {
        "network": network,
        "way": way,
        "images per second": NETWORKS[network][1] / statistics.median(seconds[way]),
        "speed-up": statistics.median(faster),
        "min": min(faster),
        "max": max(faster),
        "efficiency": statistics.median(faster) / len(processes),
        "parameters and states, MB": max(process["held MB"] for process in processes),
        "peak memory, MB": max(process["peak MB"] for process in processes),
        "sent, MB": max(process.get("sent MB", 0.0) for process in processes),
    }


def _run(way: str, processes: int, threads: int, network: str, batches: int, copies: int = 1) -> list[dict[str, Any]]:
    """Run a measurement; returns what each process found. ``copies`` run it several times at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(copy) for copy in range(copies)]
        for place in places:
            place.mkdir()
        ends = [_start([way, network, str(batches), str(place)], processes, threads) for place in places]
        for end in ends:
            end()
        return [json.loads(file.read_text()) for place in places for file in sorted(place.glob("[0-9]*.json"))]


def _start(arguments: Sequence[str], processes: int, threads: int) -> Callable[[], None]:
    """Start the processes of a measurement; returns what waits for their end."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*start, "-m", "benchmarks.pipeline_worker", *arguments]
    job = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end() -> None:
        _, errors = job.communicate()
        if job.returncode != 0:
            raise SystemExit(f"{', '.join(arguments[:2])}: {errors.decode()[-3000:]}")

    return end


# -------------------------------------------------------------------- the model


def _model(arguments: argparse.Namespace, batches: dict[str, int], rounds: int) -> None:
    """Compare the model with what is measured, and draw what it says of more stages and other links."""
    (_, receiver) = _run("messages", 2, 1, COMPARED[0], batches[COMPARED[0]])
    (small, slow), (large, slower) = ((int(size), seconds) for size, seconds in receiver["messages"].items())
    bandwidth = (large - small) / max(slower - slow, 1e-9)
    here = Link(max(slow - small / bandwidth, 0.0), bandwidth, beside=False)
    rows, first = [], ([], 0.0, 0.0)
    for network in list(NETWORKS)[: 1 if arguments.quick else None]:
        alone, pipelines = [], []
        for _ in range(rounds):
            alone += _run("IntFF", 1, 1, network, batches[network], copies=2)
            pipelines.append(_run("pipeline", 2, 1, network, batches[network]))
        units = [statistics.median(each) for each in zip(*(run["unit seconds"] for run in alone), strict=True)]
        constant = max(0.0, statistics.median(run["seconds"] - sum(run["unit seconds"]) for run in alone))
        size = 1e6 * max(process["sent MB"] for process in pipelines[0])
        expected = batch_seconds(units, constant, 2, size, here)
        found = statistics.median(processes[0]["seconds"] for processes in pipelines)
        first = first if first[0] else (units, constant, size)
        rows.append({"network": network, "units, ms": 1e3 * sum(units), "constant, ms": 1e3 * constant})
        rows[-1] |= {"message, ms": 1e3 * here.seconds(size), "model, ms": 1e3 * expected, "measured, ms": 1e3 * found}
        rows[-1]["error, %"] = 100 * (expected / found - 1)
    note = (
        f"Seconds per batch of 2 stages, medians of {rounds} rounds. A message on this machine takes "
        f"{1e3 * here.latency:.2g} ms and 1 s for {here.bandwidth / 1e9:.2g} GB, and the cores "
        "that compute also copy it."
    )
    write("pipeline_model", arguments.out, rows, note)
    _draw(arguments.out / "pipeline_model.png", *first)


def _draw(path: Path, units: Sequence[float], constant: float, size: float) -> None:
    counts = [1, 2, 4, 8, 16, 32, 64]
    many = [statistics.fmean(units)] * 64
    panels = []
    for factor, rest, title in (
        (1, constant, "64 units on this CPU core"),
        (100, 1e-3, "a device 100 times as fast,\n1 ms per batch to load and log"),
        (1000, 0.0, "1,000 times as fast,\nunits and messages alone"),
    ):
        fast = [unit / factor for unit in many]
        lines: dict[str, Any] = {"ideal": (counts, counts)}
        for name, link in LINKS.items():
            alone = batch_seconds(fast, rest, 1, size, link)
            lines[name] = counts, [alone / batch_seconds(fast, rest, count, size, link) for count in counts]
        panels.append(Panel(title, "stages", "speed-up", lines))
    draw_lines(path, panels)
