"""The page that compares runs: what is on it, what is refused, and how it looks and sorts in a real browser."""

import re
import shutil
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from browser import look, needs_browser
from matplotlib.colors import to_rgb

from intff_lightning.cli import main as intff
from intff_lightning.reporting import plots

ACCURACY = {"a": [0.9, 0.95, 0.94], "b": [0.5, 0.97, 0.98], "c": [0.91, 0.92, 0.93]}


def _run(name, widths=(200, 200), rate=0.001, seed=0, **metrics):
    """Write the log folder of a run whose metrics have a value for each epoch."""
    folder = Path("logs") / name
    folder.mkdir(parents=True)
    names = list(metrics)
    values = zip_longest(*metrics.values(), fillvalue="")
    rows = [f"{epoch},{epoch},{','.join(map(str, row))}" for epoch, row in enumerate(values)]
    (folder / "metrics.csv").write_text("\n".join([",".join(["epoch", "step", *names]), *rows, ""]))
    unit = {"class_path": "intff_lightning.DenseUnit", "init_args": {"widths": list(widths)}}
    model = {"class_path": "intff_lightning.IntFFModule", "init_args": {"units": [unit], "lr": rate, "vote": None}}
    config = {"seed_everything": seed, "model": model, "trainer": {"max_epochs": 3, "default_root_dir": name}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def runs():
    """Three runs: b has no option lr, and c has other units, a metric of its own and no validation loss."""
    common = {"train/loss": [0.9, 0.8, 0.7], "val/loss": [1, 0.9, 0.8]}
    tested = ["", "", "", 0.9712]  # after the last epoch
    a = _run("a", **common, **{"val/accuracy": ACCURACY["a"], "val/accuracy/unit_0": [0.1, 0.2, 0.3]})
    b = _run("b", rate=1e-4, **common, **{"val/accuracy": ACCURACY["b"], "test/accuracy": tested})
    c = _run("c", (100, 50, 10), **{"train/loss": [0.6, 0.5, 0.4], "val/accuracy": ACCURACY["c"], "own<b>": [1, 2, 3]})
    config = yaml.safe_load((b / "config.yaml").read_text())
    del config["model"]["init_args"]["vote"]
    (b / "config.yaml").write_text(yaml.safe_dump(config))
    return [a, b, c]


class _Table(HTMLParser):
    """The cells of the table of runs, and the captions of the figures."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.captions, self._into = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td", "figcaption"):
            self._into = self.captions if tag == "figcaption" else self.rows[-1]
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("th", "td", "figcaption"):
            self._into = None

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data


def _compare(*arguments):
    assert intff(["report", *map(str, arguments)]) == 0
    text = Path("comparison.html").read_text()
    for link in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert link.startswith("data:")
    return text, _Table(text)


def test_the_table_has_what_differs_and_the_metrics_of_the_whole_network(runs, capsys):
    text, table = _compare(*runs)
    assert capsys.readouterr().out == "report      comparison.html\n"
    head, *rows = table.rows
    columns = {name: list(values) for name, *values in zip(head, *rows, strict=True)}
    assert columns == {
        "run": ["a", "b", "c"],
        "model.units.0.widths": ["[200, 200]", "[200, 200]", "[100, 50, 10]"],
        "model.lr": ["0.001", "0.0001", "0.001"],
        "model.vote": ["null", "-", "null"],
        "epochs": ["3", "3", "3"],
        "test/accuracy": ["-", "97.12 %", "-"],
        "val/accuracy, best": ["95.00 % (epoch 2)", "98.00 % (epoch 3)", "93.00 % (epoch 3)"],
        "own<b>": ["-", "-", "3"],
        "train/loss": ["0.7", "0.7", "0.4"],
        "val/loss": ["0.8", "0.8", "-"],
    }
    best = re.findall(r'class="number best" data-name="([^"]*)" data-value="([^"]*)"', text)
    assert best == [("val/accuracy, best", "0.98")]
    assert table.captions == [
        "Validation accuracy. val/accuracy over the epochs.",
        "Validation loss. val/loss over the epochs; missing: c.",
        "Training loss. train/loss over the epochs.",
    ]
    assert "The configurations" not in text


def test_runs_are_told_apart_by_colour_dash_and_mark():
    lines = plots.run_curves("", "", {i: [(1, i), (2, 2 * i)] for i in range(24)}).axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines[:2]] == [[0, 0], [1, 2]]
    looks = {(to_rgb(line.get_color()), str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}
    assert len(looks) == 24
    assert len({line.get_marker() for line in lines[:10]}) == 10
    sample = plots.run_sample(13).axes[0].get_lines()[0]
    assert (sample.get_color(), sample.get_marker()) == (lines[13].get_color(), lines[13].get_marker())


def test_what_a_run_lacks_is_said_by_name(runs):
    (runs[0] / "config.yaml").unlink()
    (runs[1] / "config.yaml").write_text("a: [")
    text, table = _compare(*runs)
    assert "a: no config.yaml, so its configuration is not compared." in text
    assert "b: config.yaml cannot be read, so its configuration is not compared." in text
    assert "Fewer than two runs have a configuration" in text
    assert table.rows[0][:2] == ["run", "epochs"]
    shutil.copytree(runs[2], "logs/d/version_4")
    text, table = _compare(runs[2], "logs/d", "--format", "svg")  # the newest run of a folder
    assert [row[0] for row in table.rows] == ["run", "c", "d/version_4"]
    assert "The configurations do not differ." in text
    assert "data:image/svg+xml" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["logs/a", "logs/a"], "logs/a is given twice"),
        (["logs/a", "logs/b/../a"], "logs/b/../a and logs/a are the same run"),
        (["logs/a", "logs/nowhere"], "there is no folder logs/nowhere"),
        (["logs/a", "logs/empty"], "logs/empty is no log folder of a run"),
        (["logs/a", "logs/started"], "logs/started has no metrics.csv, or an empty one"),
        (["logs/a", "logs/b", "logs/other"], "logs/other has no metric in common with the other runs: it has loss."),
        (["logs/a", "logs/b", "--stage", "test"], "--stage would have no effect with several runs"),
        (["logs/a", "--out", "x.html"], "--out would have no effect with one run"),
    ],
)
def test_wrong_runs_are_named_in_a_line_or_two(arguments, message, runs, capsys):
    Path("logs/empty").mkdir()
    Path("logs/started/checkpoints").mkdir(parents=True)
    Path("logs/started/checkpoints/last.ckpt").write_text("")
    _run("other", loss=[1, 2, 3])
    try:
        code = intff(["report", *arguments])
    except SystemExit as end:
        code = end.code
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("comparison.html").exists()


CLICKS = """
const rows = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent);
const heads = [...document.querySelectorAll("th")];
const click = name => {
  const head = heads.find(one => one.textContent === name);
  head.querySelector("button").click();
  return [rows(), head.getAttribute("aria-sort")];
};
({stacked: document.querySelector("table").classList.contains("stacked"), start: rows(),
  accuracy: click("val/accuracy, best"), again: click("val/accuracy, best"), loss: click("val/loss"),
  run: click("run"), sorted: document.querySelectorAll("[aria-sort]").length,
  pictures: [...document.images].every(one => one.naturalWidth > 0)})
"""


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1300, False), (400, True)])
def test_in_a_browser_the_table_is_sorted_by_a_click_and_nothing_is_cut_off(runs, width, dark):
    _compare(*runs)
    seen = look(Path("comparison.html"), width, dark, CLICKS)
    assert seen["width"] == width
    assert seen["wide"] == []
    assert (seen["back"], seen["text"]) == (
        ("rgb(26, 26, 26)", "rgb(230, 230, 230)") if dark else ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    )
    result = seen["result"]
    assert result["pictures"]
    assert result["stacked"] is (width == 400)
    assert result["start"] == ["a", "b", "c"]
    assert result["accuracy"] == [["b", "a", "c"], "descending"]
    assert result["again"] == [["c", "a", "b"], "ascending"]
    assert result["loss"][0][-1] == "c"  # it has none
    assert result["run"] == [["a", "b", "c"], "ascending"]
    assert result["sorted"] == 1
