"""A stage that fails ends the whole pipeline within seconds, with one message."""

import contextlib
import os
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from intff_lightning import DenseUnit, HardLabels, IntFFModule
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.pipeline.channel import pack, unpack
from intff_lightning.pipeline.checks import check_module, check_stages
from intff_lightning.pipeline.layout import Layout
from intff_lightning.pipeline.partition import balance, given, measure

slow = pytest.mark.slow  # processes that import torch


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@slow
@pytest.mark.parametrize(
    ("how", "unit", "message"),
    [
        ("raises", 1, "stage 1 of the pipeline (unit_1) failed: ZeroDivisionError: division by zero"),
        ("diverges", 0, "stage 0: unit_0 diverged"),
        ("is killed", 2, "stage 2 of the pipeline (unit_2) was lost"),  # rank 0, which started the others
        ("hangs", 1, "stage 1 of the pipeline (unit_1) hangs: no progress for"),
        ("is stopped", 0, "gave no sign of life for 4 s"),
    ],
)
def test_a_stage_that_fails_ends_all(how, unit, message, tmp_path, forks):
    failed = tmp_path / "failed"
    group = forks.start("pipeline_failures.py", how, unit, failed, count=3)
    while not failed.exists():
        assert all(map(alive, group.pids)) or failed.exists(), group.output[-3000:]
        time.sleep(0.1)
    since = time.monotonic()
    while any(map(alive, group.pids)):
        if time.monotonic() - since > 30:
            for pid in group.pids:
                os.kill(pid, 9)
            pytest.fail(f"processes are left: {group.output[-3000:]}")
        time.sleep(0.1)
    assert all(group.wait())
    assert group.output.count(message) == 1, group.output[-3000:]


@pytest.mark.parametrize(
    ("costs", "stages", "expected"),
    [([1, 1, 1, 3], 2, [3, 1]), ([5, 1, 1, 1], 3, [1, 1, 2]), ([1, 2, 3, 4], 4, [1, 1, 1, 1]), ([2, 1], 1, [2])],
)
def test_units_are_divided_by_their_costs(costs, stages, expected):
    runs = balance(costs, stages)
    assert [k for run in runs for k in run] == list(range(len(costs)))
    best = max(sum(costs[k] for k in run) for run in given(expected, len(costs)))
    assert max(sum(costs[k] for k in run) for run in runs) == best
    assert len(runs) == stages


def test_units_that_are_alike_cost_alike():
    units = [DenseUnit([30]), DenseUnit([30]), DenseUnit([30]), DenseUnit([31])]
    network = IntFFModule(units, input_shape=[1, 8, 8], num_classes=10)
    costs = measure(network, torch.device("cpu"), contextlib.nullcontext)
    assert costs[1] == costs[2] > 0
    assert len(set(costs)) == 3  # the first unit reads 64 values


@pytest.mark.parametrize("sizes", [[], [3], [2, 0, 2], [2, 1]])
def test_sizes_of_stages_must_be_those_of_the_network(sizes):
    with pytest.raises(ConfigurationError, match="together they are 4"):
        given(sizes, 4)


@pytest.mark.parametrize(
    ("stages", "replicas", "processes", "expected"),
    [(None, "rest", 3, (3, 1)), ([2, 1], "rest", 4, (2, 2)), (2, 1, 2, (2, 1)), (None, 2, 4, (2, 2))],
)
def test_processes_are_stages_and_replicas(stages, replicas, processes, expected):
    layout = Layout.of(stages, replicas, processes)
    assert (layout.stages, layout.replicas) == expected
    assert [layout.rank(*layout.place(rank)) for rank in range(processes)] == list(range(processes))
    assert layout.place(0) == (layout.stages - 1, 0)  # rank 0 knows all units


def test_devices_that_are_no_multiple_of_the_stages_are_refused():
    with pytest.raises(ConfigurationError, match="2 stages times 2 replicas need 4 processes, and there are 5 devices"):
        Layout.of(2, "rest", 5)


@pytest.mark.parametrize(
    ("module", "data", "precision", "message"),
    [
        ({"update": "joint"}, {}, "32-true", "needs update=immediate"),
        ({"vote_weights": "validation"}, {}, "32-true", "vote_weights=validation needs all units in one process"),
        ({}, {"negatives": HardLabels()}, "32-true", "HardLabels asks the whole network for each batch"),
        ({}, {}, "16-mixed", "precision 16-mixed scales all units together"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(module, data, precision, message, monkeypatch):
    network = IntFFModule([DenseUnit([5]), DenseUnit([5])], **module)
    network.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    network.trainer.datamodule = DigitsDataModule(**data)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")) if precision == "16-mixed" else None
    with pytest.raises(ConfigurationError, match=f"unit_pipeline:? .*{message}|unit_pipeline {message}"):
        check_module(network, plugin)


def test_units_that_share_a_parameter_must_be_in_one_stage():
    network = IntFFModule([DenseUnit([5]), DenseUnit([5]), DenseUnit([5])], input_shape=[1, 8, 8], num_classes=10)
    layers = [next(m for m in unit.modules() if isinstance(m, torch.nn.Linear)) for unit in network.units]
    layers[2].weight = layers[1].weight
    check_stages(network, [range(1), range(1, 3)])
    with pytest.raises(ConfigurationError, match="units of stage 0 and of stage 1 share a parameter"):
        check_stages(network, [range(2), range(2, 3)])


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [torch.rand(3, 5), torch.rand(()), torch.arange(7), torch.rand(2, 3).double()],
        [torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.rand(3, 4).T, torch.zeros(0, 3)],
        [torch.rand(2, 1, 5).bfloat16(), torch.rand(4).half()],
    ],
)
def test_a_message_arrives_as_it_was_sent(tensors):
    frame = pack(tensors, 3, torch.device("cpu"))
    size, length = frame[:16].view(torch.int64).tolist()
    assert size == len(frame)
    found, flag = unpack(frame, frame[: 8 * length].view(torch.int64).tolist())
    assert flag == 3
    assert len(found) == len(tensors)
    for mine, theirs in zip(tensors, found, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.dtype == theirs.dtype
        assert mine.numel() == 0 or mine.stride() == theirs.stride() or 1 in mine.shape
        assert theirs.data_ptr() % 64 == frame.data_ptr() % 64
