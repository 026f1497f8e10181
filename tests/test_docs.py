"""The README and the documentation: every command, config, program, link and path in them is one that works."""

import contextlib
import dataclasses
import importlib
import io
import re
import runpy
import shlex
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from torch.distributed.run import get_args_parser

from intff_lightning import report
from intff_lightning.cli import main
from intff_lightning.reproduce import command as reproduce

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "results" not in p.relative_to(DOCS).parts)]
DIGITS = "configs/digits.yaml"
OF_THE_CLI = ("fit", "validate", "test", "predict")
# what a reader fills in
PLACEHOLDERS = {"N": "2", "M": "2", "R": "0", "HOST": "localhost", "DIR": "data", "FILE": DIGITS, "NAME": "table1"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclasses.dataclass
class Block:
    """Code in a page: a fence's, or (in the README) lines that are indented by four."""

    language: str
    title: str
    text: str
    line: int


def blocks(page):
    """The blocks of a page in order, and its prose: the lines outside of them."""
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
            assert "```" not in line, f"{page.name}:{number}: a fence that is not understood: {line}"
            prose.append(line)
    assert fence is None, f"{page.name}: a fence is not closed"
    return found, "\n".join(prose)


def commands(text):
    """Command lines of a shell block, those joined by ``&&`` apart."""
    for line in text.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in line.partition(" #")[0].split("&&") if part.strip())


def inline(prose):
    """Inline code, with its line breaks as spaces."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def _filled(words):
    """A command whose placeholders are filled in."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if "..." in words:
        at = words.index("...")
        whole = ["-m", "intff_lightning", "fit", "--config", DIGITS]
        given = ["x.ckpt"] if words[at - 1] == "--checkpoint" else whole[3:] if "-m" in words else whole
        words[at : at + 1] = given
    return [*words, "last"] if words[-1] == "--ckpt_path" else words


# -------------------------------------------------------------------- who accepts a command


def _cli(arguments, capsys):
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
    assert "report.html" in capsys.readouterr().out


def _benchmarks(arguments, capsys):
    """Its own parser, with a stand-in for the benchmark."""
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setitem(sys.modules, f"benchmarks.{arguments[0]}", SimpleNamespace(main=begun.append))
        patch.setattr(sys, "argv", ["benchmarks", *arguments])
        runpy.run_path(str(ROOT / "benchmarks/__main__.py"), run_name="__main__")
    (parsed,) = begun
    assert Path(getattr(parsed, "config", None) or DIGITS).is_file()


MODULES = {
    "intff_lightning": _cli,
    "intff_lightning.reproduce": _reproduce,
    "intff_lightning.report": _report,
    "benchmarks": _benchmarks,
}


ACCEPTED = set()


def accept(command, capsys):
    """Have a command accepted by whom it is for, or fail; what several pages say is asked once."""
    if command in ACCEPTED:
        return
    program, *arguments = _filled(shlex.split(command))
    if program == "torchrun":
        parsed = get_args_parser().parse_args(arguments)
        assert parsed.module, command
        arguments = ["-m", parsed.training_script, *parsed.training_script_args]
        program = "python"
    if program == "python" and arguments[0] == "-m":
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
        assert command in ("pytest", "mkdocs serve", "mkdocs build --strict"), (
            f"nobody here knows how to check: {command}"
        )
    ACCEPTED.add(command)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tutorial's run, cut short: its log folder, and what it printed."""
    folder = tmp_path_factory.mktemp("docs")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        options = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
        assert main(["fit", "--config", str(ROOT / DIGITS), *options]) == 0
    return folder / "lightning_logs", printed.getvalue()


@pytest.fixture
def workshop(tmp_path, trained):
    """The current folder as a reader's: the repository's own folders, and a run that is done."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "lightning_logs").symlink_to(trained[0])


@each_page
def test_blocks_are_of_a_known_kind(page):
    found, prose = blocks(page)
    for block in found:
        where = f"{page.name}:{block.line}"
        assert block.language in ("", "text", "python", "yaml", "bash"), f"{where}: {block.language}"
        if block.language in ("", "text"):  # what is shown there is not checked, so it must not be to run
            assert not re.search(r"^\s*(\$ |python|pip|torchrun)", block.text, flags=re.MULTILINE), where
    assert not re.search(r"^ {4,}(\$ |python |pip |torchrun )", prose, flags=re.MULTILINE)


@each_page
def test_commands_and_configs_are_accepted(page, workshop, capsys):
    found, prose = blocks(page)
    for block in found:
        if block.language == "yaml":
            path = Path(block.title or "block.yaml")
            path.write_text(block.text)
            config = yaml.safe_load(block.text)
            fit = ["fit", *([] if "model" in config else ["--config", DIGITS]), "--config", str(path)]
            _cli(fit, capsys)
            if "Digits" in str(config.get("data")):  # and its parts fit together
                assert main([*fit, "--trainer.fast_dev_run", "true"]) == 0, capsys.readouterr().err
        elif block.language == "bash":
            for command in commands(block.text):
                accept(command, capsys)
    for code in dict.fromkeys(inline(prose)):
        first, *_ = code.split()
        if first in ("python", "torchrun", "pip", "mkdocs") and code != first:
            for command in commands(code):
                accept(command, capsys)
        elif first in OF_THE_CLI and " --" in code:
            words = _filled(shlex.split(code))
            _cli([*words, *([] if {"--config", "--ckpt_path"} & set(words) else ["--config", DIGITS])], capsys)
        elif first.startswith("--"):
            _option(shlex.split(code), capsys)


def _option(words, capsys):
    """Options without their command are the Trainer's, the model's and the data's; or those of a plain parser."""
    part, _, name = words[0].removeprefix("--").partition(".")
    fit = ["fit", "--config", "configs/mnist.yaml"]
    if part in ("trainer", "model", "data", "probe") and len(words) == 1:  # named, not used
        arguments = _cli(fit, capsys)[part]
        assert name in arguments.get("init_args", arguments), words
    elif part in ("trainer", "model", "data", "probe", "ckpt_path", "test_after_fit"):
        _cli([*fit, *_filled(words)], capsys)
    else:
        known = {"--help", "--config", "--print_config"}
        for parser in (reproduce._parser(), report._parser()):
            known |= {option for action in parser._actions for option in action.option_strings}
        assert words[0] in known, words


# the second run of a page, in the folder of the first
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@each_page
def test_python_blocks_run_one_after_the_other(page):
    namespace = {"__name__": "page"}
    for block in blocks(page)[0]:
        if block.language == "python":
            lines = "\n" * block.line + block.text  # a traceback names the page's line
            exec(compile(lines, str(page), "exec"), namespace)


def _words(screen):
    """What is printed, without numbers, boxes, and the lines of epochs."""
    lines = [line for line in screen.splitlines() if not line.startswith("epoch ")]
    return re.findall(r"[A-Za-z_]+(?:[/.][A-Za-z_0-9.]+)*", "\n".join(lines))


def test_the_screen_of_the_tutorial_is_that_of_its_command(trained):
    screens = [block.text for block in blocks(DOCS / "tutorial.md")[0] if block.language == "text"]
    shown = "".join(text for text in screens if "━" in text)
    assert _words(shown) == _words(trained[1])
    epochs = [line for text in screens for line in text.splitlines() if line.startswith("epoch ")]
    printed = [line for line in trained[1].splitlines() if line.startswith("epoch ")]
    assert len(epochs) == len(printed) == 2
    for ours, theirs in zip(epochs, printed, strict=True):
        assert re.sub(r"[\d.]+", "#", ours) == re.sub(r"[\d.]+", "#", theirs)


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
    """Of the headings, as Python-Markdown makes them."""
    for heading in re.findall(r"^#+ (.+)$", blocks(page)[1], flags=re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\][\[(][^])]*[])]", r"\1", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def resolve(name):
    """The object of a dotted name."""
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
        assert not anchor or anchor in anchors(other), target
    for name in re.findall(r"\]\[([\w.]+)\]|^::: (\S+)", prose, flags=re.MULTILINE):
        assert resolve("".join(name)) is not None


@each_page
def test_paths_in_the_text_exist(page):
    for code in inline(blocks(page)[1]):
        if re.match(r"(configs|examples|tests|results|benchmarks|docs|intff_lightning)/", code):
            assert (ROOT / code).exists(), code


@each_page
def test_results_are_included_from_their_files_without_the_heading(page):
    for name, first in re.findall(r'--8<-- "([^":]+):(\d+)"', blocks(page)[1]):
        text = "\n".join((ROOT / name).read_text().splitlines()[int(first) - 1 :])
        assert "\n| --- |" in text
        assert not re.search(r"^#", text, flags=re.MULTILINE)
    assert page.read_text().count("--8<--") == len(re.findall(r'--8<-- "[^":]+:\d+"', page.read_text()))


@pytest.mark.parametrize("name", ["reproducing.md", "choosing.md", "lightning.md", "algorithm.md"])
def test_accuracies_in_the_text_are_in_the_results(name):
    results = "\n".join(path.read_text() for path in (ROOT / "results").glob("*.md"))
    for figure in re.findall(r"\b\d\d\.\d\d\b", blocks(DOCS / name)[1]):
        assert figure in results, figure


def test_every_page_has_its_place_in_the_navigation():
    def paths(entry):
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from paths(inner)

    nav = list(paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in PAGES[1:])
