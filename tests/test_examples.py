"""The examples run, learn, and stay short."""

import importlib.util
import re

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _load(path):
    assert len(path.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem != "search"], ids=lambda path: path.stem)
def test_examples_learn_and_are_short(path):
    epochs = {"resnet18": 3, "regression": 10, "words": 4}
    assert _load(path).main(max_epochs=epochs.get(path.stem, 6)) > (0.7 if path.stem == "words" else 0.85)


@pytest.mark.slow
def test_a_search_resumes_prunes_and_is_shared_by_processes(forks, capsys):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = ROOT / "examples/search.py"
    storage = JournalStorage(JournalFileBackend("search.journal"))
    study = optuna.create_study(storage=storage, study_name="digits, 2 epochs", direction="maximize")
    good = {"units": 1, "lr": 0.003, "wrong_labels": 3}
    for width in (200, 250, 300):
        study.enqueue_trial({"width": width, **good})
    assert _load(path).main(max_epochs=2, trials=3) > 0.85
    before = study.get_trials()
    assert [trial.params["width"] for trial in before] == [200, 250, 300]
    assert [list(trial.intermediate_values) for trial in before] == [[0, 1]] * 3

    study.enqueue_trial({"width": 50, "units": 3, "lr": 1e-4, "wrong_labels": 1})  # far behind after one epoch
    processes = [forks.start(str(path), 2, 6, count=1) for _ in range(2)]
    for process in processes:
        assert process.wait() == [0], process.output
    after = study.get_trials()
    assert after[:3] == before
    assert after[3].state.name == "PRUNED"
    assert list(after[3].intermediate_values) == [0]
    assert sum(trial.state.is_finished() for trial in after) in (6, 7)  # the other process may be at one more
    done = [int(n) for p in processes for n in re.findall(r"Trial (\d+) (?:finished|pruned)", p.output)]
    assert sorted(done) == [trial.number for trial in after[3:]]  # nobody's work is done twice
