"""The notebook runs from top to bottom, and computes what its text says."""

import json
import sys

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "examples/tutorial.ipynb"

FACTS = """
import json

print(json.dumps({
    "executable": __import__("sys").executable,
    "results": results,
    "alone": alone,
    "history": history,
    "class": [int(goodness.sum(0)[0].argmax()), int(test.target[0])],
    "shown": [pairs.target.tolist(), pairs.negative_target.flatten().tolist()],
    "pixels": rows["positive"][:, 0, 0].argmax(1).tolist(),
}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The notebook, run in a folder of its own by this interpreter, and facts about its variables."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (train,) = (cell for cell in notebook.cells if "epochs=15" in cell.source)
    train.source = train.source.replace("epochs=15", "epochs=9")  # enough for what is checked
    notebook.cells.append(nbformat.v4.new_code_cell(FACTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))  # ignore what the user has set up
        for name in ("MPLBACKEND", "JUPYTER_PATH"):
            patch.delenv(name, raising=False)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    (printed,) = notebook.cells.pop().outputs
    facts = json.loads(printed.text)
    assert facts["executable"] == sys.executable
    return notebook, facts


def _outputs(notebook, kind):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output for output in outputs if output.output_type == kind]


def test_the_networks_of_the_notebook_learn(run):
    results = run[1]["results"]
    assert list(results) == ["IntFF", "backpropagation", "IntFF, gated units"]
    assert all(accuracy > 0.93 for accuracy in results.values()), results
    assert all(accuracy > 0.9 for accuracy in run[1]["alone"])


def test_goodness_parts_at_the_threshold(run):
    first, *_, last = run[1]["history"]
    for k in range(2):
        assert last[f"goodness/positive/unit_{k}"] > 3 > 0.3 > last[f"goodness/negative/unit_{k}"]
        assert last[f"train/loss/unit_{k}"] < first[f"train/loss/unit_{k}"]


def test_the_pairs_show_the_labels_that_they_name(run):
    (true, wrong), facts = run[1]["shown"], run[1]
    assert all(a != b for a, b in zip(true, wrong, strict=True))
    assert facts["pixels"] == true
    assert facts["class"][0] == facts["class"][1]


def test_it_draws_three_figures_and_says_nothing_on_stderr(run):
    drawn = [output for output in _outputs(run[0], "display_data") if "image/png" in output.data]
    assert len(drawn) == 3
    assert [output.text for output in _outputs(run[0], "stream") if output.name == "stderr"] == []


def test_it_is_stored_without_outputs_and_without_traces_of_a_machine():
    """Outputs would become outdated unseen, and every change would also change pictures."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)
