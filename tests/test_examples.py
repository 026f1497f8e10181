"""The examples run, learn, and stay short."""

import importlib.util

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_learn_and_are_short(path):
    assert len(path.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(max_epochs=3 if path.stem == "resnet18" else 6) > 0.85
