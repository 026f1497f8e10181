"""Two processes on this machine give the weights and metrics of one."""

import ddp_runs
import pytest
import torch

pytestmark = pytest.mark.slow  # processes that import torch


@pytest.fixture(scope="module")
def of_two(tmp_path_factory, forks):
    """What every process of two has after each run."""
    out = tmp_path_factory.mktemp("ddp") / "two"
    group = forks.start("ddp_runs.py", out, count=2)
    assert not any(group.wait()), group.output[-2000:]
    return [torch.load(f"{out}.{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize(
    "number", range(len(ddp_runs.RUNS)), ids=["-".join(map(str, run[:2])) for run in ddp_runs.RUNS]
)
def test_two_processes_equal_one(number, of_two):
    one, ours, steps, _ = ddp_runs.train(1, *ddp_runs.RUNS[number])
    (first, theirs, steps_of_two, _), (second, *_) = (results[number] for results in of_two)
    for name, weight in one.items():
        assert torch.equal(first[name], second[name])
        tolerance = 1e-5 if name == "fitted_vote" else 1e-9  # float32
        assert (first[name] - weight).abs().max() <= tolerance * weight.abs().max()
    rows = 480 if "sequences" in ddp_runs.RUNS[number] else 1257
    assert steps == steps_of_two == 2 * (rows // 48)
    assert ours.keys() == theirs.keys()
    probe = "test/probe_accuracy"  # its batches' statistics are those of one process
    for name in ours.keys() - {probe}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert abs(ours[probe] - theirs[probe]) < 0.1


@pytest.mark.parametrize("number", range(len(ddp_runs.RUNS)))
def test_a_batch_reduces_every_gradient_once_whatever_the_schedule(number, of_two):
    for weights, _, _, sent in (results[number] for results in of_two):
        trained = [weight for name, weight in weights.items() if name != "fitted_vote"]
        # the last batch of an epoch also counts what its validation reduces
        assert sent[:9] == [sum(weight.numel() * weight.element_size() for weight in trained)] * 9
