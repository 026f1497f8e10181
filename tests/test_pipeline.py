"""Units in several processes give the weights, states and metrics of one process, to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import pipeline_runs
import pytest
import torch

pytestmark = pytest.mark.slow  # processes that import torch

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def differences(mine, theirs, place=""):
    """Names of the entries in which two states differ, but for folders, times and the strategy's own."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in mine.keys() | theirs.keys():
            if key in ("dirpath", "best_model_path", "kth_best_model_path", "best_k_models", "last_model_path"):
                continue
            yield from differences(mine.get(key), theirs.get(key), f"{place}/{key}")
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple) and len(mine) == len(theirs):
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from differences(*pair, f"{place}/{number}")
    elif isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
            yield place
    elif mine != theirs and not (mine != mine and theirs != theirs):
        yield f"{place}: {mine!r}, {theirs!r}"[:300]


@pytest.fixture(scope="module")
def of_several(tmp_path_factory, forks):
    """The results of all runs by their number of stages, with 1 for one process."""
    folder, found = tmp_path_factory.mktemp("pipeline"), {}
    for stages in (1, 2, 3, 4):
        names = [name for name, (*_, counts) in pipeline_runs.RUNS.items() if stages in (1, *counts)]
        group = forks.start("pipeline_runs.py", stages, folder / str(stages), "whole", *names, count=stages)
        assert not any(group.wait()), group.output[-3000:]
        assert group.output.count("units draw random numbers") == (stages in (2, 3))
        found[stages] = torch.load(folder / str(stages))
    return found


@pytest.mark.parametrize("name", sorted(pipeline_runs.RUNS.keys() - {"draws"}))
def test_stages_equal_one_process(name, of_several):
    one = of_several[1][name]
    assert one["metrics"].keys() >= {"train/loss", "val/accuracy", "test/accuracy", "val/loss/unit_1"}
    for stages in pipeline_runs.RUNS[name][2]:
        assert "\n".join(differences(one, of_several[stages][name])) == "", stages


def test_random_draws_of_units_are_the_same_for_any_number_of_stages(of_several):
    first, second = (of_several[stages]["draws"] for stages in (2, 3))
    assert "\n".join(differences(first, second)) == ""


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("how", ["SIGINT1", "SIGTERM0", "SIGKILL2"])
def test_a_stopped_run_resumes_on_any_number_of_stages(how, tmp_path, forks, of_several):
    """One process gets a Ctrl-C, a SIGTERM or a SIGKILL; after the first two, all stop after the same batch."""
    stopped = forks.start("pipeline_runs.py", 3, tmp_path / "stopped", how, "accumulated", count=3)
    assert stopped.wait()[0] == (0 if how.startswith("SIGTERM") else 1)  # Lightning's
    assert ("stage 0 of the pipeline (unit_0) was lost" in stopped.output) == (how == "SIGKILL2")
    (last,) = tmp_path.glob("stopped.logs/**/last.ckpt")
    step = torch.load(last, weights_only=True)["global_step"]
    assert step == 5 if how.startswith("SIGKILL") else 5 < step < 10  # 14 batches of an epoch are 5 steps
    one = of_several[1]["accumulated"]
    for stages in (1, 2):
        resumed = forks.start("pipeline_runs.py", stages, tmp_path / str(stages), last, "accumulated", count=stages)
        assert not any(resumed.wait()), resumed.output[-3000:]
        other = torch.load(tmp_path / str(stages))["accumulated"]
        for part in ("weights", "metrics", "scores"):
            assert "\n".join(differences(one[part], other[part])) == "", part
        states = (run["checkpoint"]["optimizer_states"] for run in (one, other))
        assert "\n".join(differences(*states)) == ""


def test_two_replicas_of_two_stages_equal_ddp_on_two_processes(tmp_path, forks):
    results = []
    for processes, how in ((4, "replicas"), (2, "ddp")):
        runs = [processes, tmp_path / how, how, "plain", "accumulated"]
        group = forks.start("pipeline_runs.py", *runs, count=processes)
        assert not any(group.wait()), group.output[-3000:]
        results.append(torch.load(tmp_path / how))
    for name, ours in results[0].items():
        for part in ("weights", "metrics", "scores"):
            assert "\n".join(differences(results[1][name][part], ours[part])) == "", (name, part)


def test_the_command_line_writes_what_one_process_writes(tmp_path, forks):
    """Tables, metrics, figures and predictions appear once, and are those of one process."""
    printed = {}
    for stages, options in ((1, []), (2, ["--trainer.strategy", "unit_pipeline"])):
        common = ["--trainer.accelerator", "cpu", "--trainer.devices", str(stages), *options]
        common += ["--trainer.default_root_dir", str(tmp_path / str(stages))]
        fit = ["fit", "--config", "digits", "--trainer.max_epochs", "2", *common]
        if stages == 1:
            group = forks.start("blank_cli.py", *fit, count=1)
            assert group.wait() == [0], group.output[-3000:]
            output = group.output
        else:  # as Lightning starts processes
            run = [sys.executable, str(Path(__file__).with_name("blank_cli.py")), *fit]
            done = subprocess.run(run, capture_output=True, text=True, timeout=200, env=ONE_THREAD)
            assert done.returncode == 0, done.stderr[-3000:]
            assert done.stderr == ""
            output = done.stdout
        printed[stages] = [line for line in output.splitlines() if line.startswith("│ ") or " %" in line]
        (best,) = (tmp_path / str(stages)).glob("**/best.ckpt")
        group = forks.start("intff_lightning", "predict", "--ckpt_path", best, *common, count=stages)
        assert not any(group.wait()), group.output[-3000:]
    tests = [[line for line in lines if line.startswith("│ unit_") and "%" in line] for lines in printed.values()]
    assert tests[0] == tests[1] != []
    assert sum("stage" in line for line in printed[2]) == 0
    one, two = (
        {file.relative_to(tmp_path / stages): file for file in (tmp_path / stages).rglob("*") if file.is_file()}
        for stages in ("1", "2")
    )
    names = {name for name in one if "tfevents" not in name.name}
    assert names == {name for name in two if "tfevents" not in name.name}
    for name in names:
        if name.name in ("metrics.csv", "predictions.csv"):
            assert one[name].read_bytes() == two[name].read_bytes()


def test_a_wrong_number_of_stages_is_refused_in_one_line(forks):
    fit = ["fit", "--config", "digits", "--trainer.strategy", "unit_pipeline", "--trainer.accelerator", "cpu"]
    group = forks.start("intff_lightning", *fit, "--trainer.devices", "3", count=3)
    assert group.wait() == [1, 1, 1]
    assert group.output == (
        "error: unit_pipeline: 3 stages for 2 units; a stage needs one unit or more. Use fewer devices.\n"
    )


def test_a_network_that_is_too_large_for_one_process_is_trained_by_several(tmp_path, forks):
    """Under a limit of memory per process, which parameters, gradients and Adam's state exceed in one process."""
    groups = [forks.start("pipeline_runs.py", n, tmp_path / str(n), "limited", count=n) for n in (1, 3)]
    assert groups[0].wait() == [1]
    assert "memory" in groups[0].output
    assert not any(groups[1].wait()), groups[1].output[-3000:]
