"""README, CONTRIBUTING and documentation: every command, config, program, link, path and figure in them is right."""

import contextlib
import dataclasses
import importlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from scipy.stats import ttest_ind
from torch.distributed.run import get_args_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it, too

from intff_lightning import report
from intff_lightning.cli import main
from intff_lightning.reproduce import command as reproduce

DOCS = ROOT / "docs"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
SITE = sorted(page for page in DOCS.rglob("*.md") if "results" not in page.relative_to(DOCS).parts)
PAGES = [ROOT / "README.md", CONTRIBUTING, *SITE]
DIGITS = "configs/digits.yaml"
SUBCOMMANDS = ("fit", "validate", "test", "predict")
PROGRAMS = ("python", "intff", "torchrun", "pip", "git")
# figures of an audit outside this repository, which the pages name as such
AUDIT = {"98.92", "98.79", "97.69", "94.32"}
# what a reader fills in
PLACEHOLDERS = {"N": "2", "M": "2", "R": "0", "HOST": "localhost", "DIR": "data", "FILE": DIGITS, "NAME": "table1"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclasses.dataclass
class Block:
    """Code in a page: a fence, or in the README a line that is indented by four."""

    language: str
    title: str
    text: str
    line: int


def blocks(page):
    """Return the blocks of a page in order, and its prose: the lines outside of them."""
    found, prose = [], []
    fence = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        opening = re.match(r" *```(\w*)(?: title=\"(.+)\")? *$", line)
        if fence is not None:
            if line.strip() == "```":
                fence = None
            else:
                fence.text += line + "\n"
        elif opening:
            fence = Block(opening[1], opening[2] or "", "", number)
            found.append(fence)
        elif page.name == "README.md" and line.startswith("    "):
            found.append(Block("bash", "", line.strip() + "\n", number))
        else:
            assert "```" not in line, f"{page.name}:{number}: cannot read this fence: {line}"
            prose.append(line)
    assert fence is None, f"{page.name}: a fence is not closed"
    return found, "\n".join(prose)


def commands(text):
    """Yield the commands of a shell block; ``&&`` separates two."""
    for line in text.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in line.partition(" #")[0].split("&&") if part.strip())


def inline(prose):
    """Return the inline code of a page, with spaces for line breaks."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def _filled(words):
    """Fill in the placeholders of a command."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if "..." in words:
        at = words.index("...")
        whole = ["-m", "intff_lightning", "fit", "--config", DIGITS]
        given = ["x.ckpt"] if words[at - 1] == "--checkpoint" else whole[3:] if "-m" in words else whole
        words[at : at + 1] = given
    return [*words, "last"] if words[-1] == "--ckpt_path" else words


# -------------------------------------------------------------------- commands


def _cli(arguments, capsys):
    if not arguments:  # the program alone
        return {}
    if arguments == ["configs"]:
        assert main(arguments) == 0
        return {}
    if not {"--help", "--print_config"} & set(arguments):
        arguments = [*arguments, "--print_config"]
    capsys.readouterr()
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    config = {} if "--help" in arguments else yaml.safe_load(printed)
    assert "--help" in arguments or {"model", "data"} <= config.keys()
    return config


def _reproduce(arguments, capsys):
    assert reproduce._parser().parse_args(arguments).name


def _report(arguments, capsys):
    assert report.main(arguments) == 0, capsys.readouterr().err
    several = len([word for word in arguments if word.startswith("lightning_logs")]) > 1
    assert ("comparison.html" if several else "report.html") in capsys.readouterr().out


def _benchmarks(arguments, capsys):
    """Parse the arguments with the benchmark's own parser, and run a stand-in for it."""
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setattr(importlib.import_module(f"benchmarks.{arguments[0]}"), "main", begun.append)
        importlib.import_module("benchmarks.__main__").main(arguments)
    (parsed,) = begun
    assert Path(vars(parsed).get("config") or DIGITS).is_file()


def _zensical(arguments, capsys):
    assert arguments[0] in ("build", "serve")
    assert set(arguments[1:]) <= {"--strict"}


MODULES = {
    "zensical": _zensical,
    "intff_lightning": _cli,
    "intff_lightning.reproduce": _reproduce,
    "intff_lightning.report": _report,
    "benchmarks": _benchmarks,
}


ACCEPTED = set()  # commands, and options of fit without one
SHOWN: dict = {}  # what fit prints for --print_config


def accept(command, capsys):
    """Have the parser of a command accept it, or fail. A command of several pages is checked once."""
    if command in ACCEPTED:
        return
    program, *arguments = _filled(shlex.split(command))
    if program == "torchrun":
        parsed = get_args_parser().parse_args(arguments)
        assert parsed.module, command
        arguments = ["-m", parsed.training_script, *parsed.training_script_args]
        program = "python"
    if program == "intff":
        _report(arguments[1:], capsys) if arguments[:1] == ["report"] else _cli(arguments, capsys)
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1] in MODULES, command
        MODULES[arguments[1]](arguments[2:], capsys)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), command
    elif program == "pip":
        assert arguments[:2] == ["install", "-e"], command
        extras = re.fullmatch(r"\.(?:\[(.+)\])?", arguments[2])[1]
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
        assert set(extras.split(",") if extras else []) <= set(known), command
    else:
        assert program in ("pytest", "git", "pre-commit", "bash"), f"no check is known for: {command}"
    ACCEPTED.add(command)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tutorial's run, cut short: its log folder, and its output."""
    folder = tmp_path_factory.mktemp("docs")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        options = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
        assert main(["fit", "--config", str(ROOT / DIGITS), *options]) == 0
    other = folder / "lightning_logs/version_1"  # to be compared with
    other.mkdir()
    for name in ("metrics.csv", "config.yaml"):
        shutil.copy(folder / "lightning_logs/version_0" / name, other)
    return folder / "lightning_logs", printed.getvalue()


@pytest.fixture
def workshop(tmp_path, trained):
    """The current folder as a reader has it: the folders of the repository, and a finished run."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "lightning_logs").symlink_to(trained[0])


@each_page
def test_blocks_have_a_known_language(page):
    found, prose = blocks(page)
    for block in found:
        where = f"{page.name}:{block.line}"
        assert block.language in ("", "text", "python", "yaml", "bash", "results"), f"{where}: {block.language}"
        if block.language in ("", "text"):  # these are not run, so they must not hold commands
            assert not re.search(r"^\s*(\$ |python|pip|torchrun)", block.text, flags=re.MULTILINE), where
    assert not re.search(r"^ {4,}(\$ |python |pip |torchrun )", prose, flags=re.MULTILINE)


@pytest.mark.slow
@each_page
def test_commands_and_configs_are_accepted(page, workshop, blank_figures, capsys):
    found, prose = blocks(page)
    for block in found:
        if block.language == "yaml" and page != CONTRIBUTING:
            path = Path(block.title or "block.yaml")
            path.write_text(block.text)
            config = yaml.safe_load(block.text)
            fit = ["fit", *([] if "model" in config else ["--config", DIGITS]), "--config", str(path)]
            if "Digits" in str(config.get("data")):  # its parts fit together
                assert main([*fit, "--trainer.fast_dev_run", "true"]) == 0, capsys.readouterr().err
            else:
                _cli(fit, capsys)
        elif block.language == "bash":
            for command in commands(block.text):
                accept(command, capsys)
    for code in dict.fromkeys(inline(prose)):
        first, *_ = code.split()
        if first in PROGRAMS and code != first:
            for command in commands(code):
                accept(command, capsys)
        elif first in SUBCOMMANDS and " --" in code:
            words = _filled(shlex.split(code))
            _cli([*words, *([] if {"--config", "--ckpt_path"} & set(words) else ["--config", DIGITS])], capsys)
        elif first.startswith("--"):
            _option(shlex.split(code), capsys)


def _option(words, capsys):
    """Check options without a command: those of the Trainer, the model and the data, or of a plain parser."""
    part, _, name = words[0].removeprefix("--").partition(".")
    fit = ["fit", "--config", "configs/mnist.yaml"]
    if part in ("trainer", "model", "data", "probe") and len(words) == 1:  # named, not used
        if not SHOWN:
            SHOWN.update(_cli(fit, capsys))
        arguments = SHOWN[part]
        assert name in arguments.get("init_args", arguments), words
    elif part in ("trainer", "model", "data", "probe", "ckpt_path", "test_after_fit"):
        if tuple(words) not in ACCEPTED:
            _cli([*fit, *_filled(words)], capsys)
            ACCEPTED.add(tuple(words))
    else:
        known = {"--help", "--config", "--print_config", "--images"}
        parsers = [(reproduce.main, [name]) for name in ("table1", "tune", "characteristics")]
        for help_of, arguments in [*parsers, (report.main, [])]:
            with pytest.raises(SystemExit):
                help_of([*arguments, "--help"])
            known |= set(re.findall(r"--\w+", capsys.readouterr().out))
        assert words[0] in known, words


@pytest.mark.slow
# a page may train several times in one folder
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@each_page
def test_python_blocks_run_one_after_the_other(page):
    namespace = {"__name__": "page"}
    for block in blocks(page)[0]:
        if block.language == "python" and not block.title:
            lines = "\n" * block.line + block.text  # a traceback names the line of the page
            exec(compile(lines, str(page), "exec"), namespace)


EXTENDED = """
import importlib, runpy, sys
from pathlib import Path
from intff_lightning.cli import main
for name in ("intff_lightning", "intff_lightning.units", "intff_lightning.datamodules", "intff_lightning.callbacks"):
    package = importlib.import_module(name)
    package.__path__.append(str(Path(name.replace(".", "/")).absolute()))
(test,) = Path("tests").iterdir()
checks = [check for name, check in runpy.run_path(str(test)).items() if name.startswith("test_")]
assert checks
for check in checks:
    check()
sys.exit(main(["fit", "--config", "extended.yaml", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]))
"""


@pytest.mark.slow
def test_the_extensions_of_contributing_work(tmp_path, forks):
    """Each is a new file in the package, its test, and its full path in a config; no other file is edited."""
    for block in blocks(CONTRIBUTING)[0]:
        if block.title:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    # in its own process: the new classes would be known to all later tests
    Path("extended.py").write_text(EXTENDED)
    group = forks.start(Path("extended.py").absolute(), count=1)
    assert group.wait() == [0], group.output
    assert "val/least_goodness" in Path("lightning_logs/version_0/metrics.csv").read_text()


def _words(screen):
    """Return the words of a screen, without numbers, boxes, and the lines of epochs."""
    lines = [line for line in screen.splitlines() if not line.startswith("epoch ")]
    return re.findall(r"[A-Za-z_]+(?:[/.][A-Za-z_0-9.]+)*", "\n".join(lines))


@pytest.mark.slow
def test_the_screens_are_those_of_their_command(trained):
    screens = [block.text for block in blocks(DOCS / "tutorial.md")[0] if block.language == "text"]
    shown = "".join(text for text in screens if "━" in text)
    assert _words(shown) == _words(trained[1])
    (readme,) = (block.text for block in blocks(ROOT / "README.md")[0] if "━" in block.text)
    assert readme.splitlines()[1:] == screens[-2].splitlines()
    epochs = [line for text in screens for line in text.splitlines() if line.startswith("epoch ")]
    printed = [line for line in trained[1].splitlines() if line.startswith("epoch ")]
    assert len(epochs) == len(printed) == 2
    for ours, theirs in zip(epochs, printed, strict=True):
        assert re.sub(r"[\d.]+", "#", ours) == re.sub(r"[\d.]+", "#", theirs)


@pytest.mark.slow
def test_the_files_and_metrics_of_the_tutorial_are_those_of_its_command(trained):
    run = trained[0] / "version_0"
    text = (DOCS / "tutorial.md").read_text()
    listed = re.findall(r"^    ([\w/.]+?)(?:\.\.\.)?  +\w", text, flags=re.MULTILINE)
    assert {"checkpoints/best.ckpt", "metrics.csv", "figures/"} <= set(listed)
    for name in listed:
        assert list(run.glob(f"{name}*")), name
    names = set((run / "metrics.csv").read_text().splitlines()[0].split(","))
    mentioned = [c for c in inline(blocks(DOCS / "tutorial.md")[1]) if re.match(r"(train|val|test|goodness)/", c)]
    assert len(mentioned) > 10
    assert set(mentioned) <= names


# -------------------------------------------------------------------- links, paths, figures


def anchors(page):
    """Yield the anchors of the headings, as Python-Markdown makes them."""
    for heading in re.findall(r"^#+ (.+)$", blocks(page)[1], flags=re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\][\[(][^])]*[])]", r"\1", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def resolve(name):
    """Return the object of a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            thing = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                thing = getattr(thing, part)
            return thing
    raise ModuleNotFoundError(name)


@each_page
def test_links_lead_somewhere(page):
    prose = re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", blocks(page)[1])
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.is_file(), target
        assert not anchor or other.suffix == ".svg" or anchor in anchors(other), target
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', prose):
        assert (page.parent / name).is_file(), name
    for name in re.findall(r"\]\[([\w.]+)\]|^::: (\S+)", prose, flags=re.MULTILINE):
        assert resolve("".join(name)) is not None


@each_page
def test_paths_in_the_text_exist(page):
    for code in inline(blocks(page)[1]):
        if re.match(r"(configs|examples|tests|results|benchmarks|docs|intff_lightning)/", code):
            assert (ROOT / code).exists(), code


def _tables(text):
    """Yield the tables of a Markdown text as lists of lines."""
    table = []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            table.append(line.strip())
        elif table:
            yield table
            table = []


def _cells(line):
    """Count the cells of a line; an escaped pipe, or one in code, is part of a cell."""
    return len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1


@pytest.fixture(scope="module")
def results():
    return runpy.run_path(str(DOCS / "extensions/results.py"))["replaced"]


@each_page
def test_tables_have_as_many_cells_in_every_row_and_one_number_per_cell(page, results):
    shown = results(page.read_text())
    assert "```results" not in shown
    for fence in re.findall(r"```results\n.*?```", page.read_text(), flags=re.DOTALL):
        for line in [line for line in results(fence).splitlines()[2:] if line.startswith("|")]:
            for cell in line.split("|"):
                assert not re.search(r"\d\.\d+\D+\d+\.\d", cell), cell
    for table in _tables(shown):
        assert {_cells(line) for line in table} == {_cells(table[0])}, table[0]


RESULTS = sorted((ROOT / "results").rglob("*.md"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_tables_of_results_have_as_many_cells_in_every_row(path):
    tables = list(_tables(path.read_text()))
    assert tables
    for table in tables:
        assert {_cells(line) for line in table} == {_cells(table[0])}, table[0]


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{page}.md" for page in ("reproducing", "choosing", "lightning"))]
)
def test_accuracies_in_the_text_are_in_the_results(name):
    results = "\n".join(path.read_text() for path in [*RESULTS, *(ROOT / "results/paper/runs").rglob("rounds.csv")])
    prose = blocks(ROOT / name)[1]
    for figure in set(re.findall(r"(?<![\d.])\d\d\.\d\d\b", prose)) - AUDIT:
        assert figure in results, figure
    assert "audit" in prose or not AUDIT & set(re.findall(r"\d\d\.\d\d", prose))


def test_the_comparisons_of_reproducing_are_those_of_the_results():
    """Its section "What holds, and what does not" in figures, from the accuracies of the seeds."""
    tables = ("table1", "table2", "robustness")
    rows = [row for name in tables for row in json.loads((ROOT / f"results/paper/{name}.json").read_text())]

    def widths(row):
        return re.findall(r"\d+", row["network"])

    def compare(one, other):
        """Return differences of means and p values."""
        found = {}
        for row in rows:
            for base in rows:
                same = all(row[key] == base[key] for key in ("table", "corruption", "rate"))
                pair = [(each["algorithm"], each["procedure"]) for each in (row, base)] == [one, other]
                if same and pair and widths(base) in (widths(row), [*widths(row), "10"]):
                    p = ttest_ind(row["accuracies"], base["accuracies"]).pvalue
                    place = row["table"], row["corruption"], ",".join(widths(row)), row["rate"]
                    found[place] = row["accuracy_mean"] - base["accuracy_mean"], p
        return found

    label, bp = compare(("intff", "tuned"), ("bp", "tuned")), ("bp", "tuned")
    assert len(label) == 13
    assert round(max(d for d, _ in label.values()), 2) == -0.09
    assert round(min(d for d, _ in label.values()), 2) == -0.56
    assert sum(p < 0.05 for _, p in label.values()) == 9
    by_class = compare(("intff", "channels"), bp)
    table2 = [by_class.pop(place) for place in list(by_class) if place[0] == "table2"]
    assert [(round(d, 2), round(p, 3)) for d, p in table2] == [(-0.24, 0.001), (-0.19, 0.012)]
    assert (sum(d > 0 for d, _ in by_class.values()), sum(d < 0 for d, _ in by_class.values())) == (7, 4)
    (noise,) = [place for place, (_, p) in by_class.items() if p < 0.12]
    assert noise[1] == "label_noise"
    assert [round(by_class[noise][0], 2), round(by_class[noise][1], 3)] == [-0.42, 0.009]
    for name in ("tuned", "channels"):
        for place, (difference, p) in compare(("intff", name), ("ff", name)).items():
            assert difference > 0
            assert p < 0.01 or place[1] == "label_noise"
    for name, gains in {"ff": (3.35, 7.44), "intff": (0.95, 4.73), "bp": (1.68, 5.01)}.items():
        own = [row for row in rows if (row["algorithm"], row["procedure"]) == (name, "tuned") and row["paper_accuracy"]]
        gained = sorted(round(row["accuracy_mean"] - row["paper_accuracy"], 2) for row in own)
        assert (gained[0], gained[-1]) == gains
        assert all(f"{gain:.2f}" in (DOCS / "reproducing.md").read_text() for gain in gains)


def test_pictures_of_results_are_links_to_them():
    """The builder follows links to files, but not links to folders."""
    for path in (DOCS / "results").rglob("*.png"):
        assert path.readlink() == Path("../../..", path.relative_to(DOCS))


def test_every_page_has_its_place_in_the_navigation():
    def paths(entry):
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from paths(inner)

    nav = list(paths(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in SITE)
