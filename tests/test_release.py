"""A release: its checks, the documentation of all versions, the workflows, and the issue forms."""

import json
import re
import runpy
import shutil

import pytest
import yaml
from browser import PROGRAM, needs_browser
from conftest import ROOT

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))  # config.yml is none


@pytest.fixture
def tree(tmp_path):
    """The files that name the version, with a changelog that has two versions."""
    (tmp_path / "intff_lightning").mkdir()
    for name in ("intff_lightning/_version.py", "CITATION.cff"):
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(
            re.sub(r'(^version: |__version__ = ")[\d.]+', r"\g<1>0.2.0", text, flags=re.MULTILINE)
        )
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0 (2026-12-24)\n\n- New.\n\n## 0.1.0\n\n- Old.\n")
    return tmp_path


@pytest.fixture(scope="module")
def notes():
    return runpy.run_path(str(ROOT / ".ci/check_release.py"))["notes"]


def test_the_notes_of_a_release_are_its_section_of_the_changelog(notes, tree):
    assert notes("v0.2.0", tree) == "- New."


@pytest.mark.parametrize("file", ["intff_lightning/_version.py", "CITATION.cff", "CHANGELOG.md"])
def test_a_release_needs_its_version_everywhere(notes, tree, file):
    text = (tree / file).read_text()
    assert "0.2.0" in text
    (tree / file).write_text(text.replace("0.2.0", "0.3.0"))
    with pytest.raises(SystemExit, match=re.escape(file)):
        notes("v0.2.0", tree)


@pytest.mark.parametrize("tag", ["0.2.0", "v0.2", "v0.1.0", "v0.2.0rc1"])
def test_a_tag_of_another_version_is_refused(notes, tree, tag):
    with pytest.raises(SystemExit, match=re.escape(tag)):
        notes(tag, tree)


def test_a_release_without_a_description_is_refused(notes, tree):
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0\n\n## 0.1.0\n\n- Old.\n")
    with pytest.raises(SystemExit, match=r"no section '## 0\.2\.0'"):
        notes("v0.2.0", tree)


def test_the_versions_of_the_tree_agree():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited == runpy.run_path(str(ROOT / "intff_lightning/_version.py"))["__version__"]


def test_the_documentation_of_every_version_stays(tmp_path):
    add = runpy.run_path(str(ROOT / ".ci/add_version.py"))["add"]
    pages = tmp_path / "pages"
    pages.mkdir()

    def publish(version):
        site = tmp_path / "site"
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir()
        (site / "index.html").write_text(version)
        (site / f"only-{version}.html").touch()
        add(site, pages, version)

    publish("dev")
    assert 'url=dev/"' in (pages / "index.html").read_text()
    for version in ("0.9.0", "0.10.0", "0.10.1rc1", "0.9.1"):
        publish(version)
    assert 'url=latest/"' in (pages / "index.html").read_text()
    entries = json.loads((pages / "versions.json").read_text())
    assert [entry["version"] for entry in entries] == ["dev", "0.10.1rc1", "0.10.0", "0.9.1", "0.9.0"]
    assert {entry["version"]: entry["aliases"] for entry in entries if entry["aliases"]} == {"0.10.0": ["latest"]}
    for version, folder in [("dev", "dev"), ("0.9.0", "0.9.0"), ("0.10.0", "latest"), ("0.10.0", "0.10.0")]:
        assert (pages / folder / "index.html").read_text() == version
        assert [path.name for path in (pages / folder).glob("only-*")] == [f"only-{version}.html"]


def test_links_that_lead_nowhere_are_found(tmp_path):
    problems = runpy.run_path(str(ROOT / ".ci/check_site.py"))["problems"]
    (tmp_path / "api").mkdir()
    (tmp_path / "picture.png").touch()
    good = """<h1 id="a b">A</h1><a href="#a%20b">1</a> <img src="../picture.png"> <a href="https://x.org/y#z">2</a>
<a href="index.html">3</a> <a href="..">4</a> <a href="/api/#a%20b">5</a> <code>x[0][n]</code>
<pre><code>a</code> [b][c]</pre>"""
    (tmp_path / "api/index.html").write_text(good)
    (tmp_path / "index.html").write_text('<a name="top-of-page">A</a><a href="api/index.html#a%20b">B</a>')
    assert problems(tmp_path) == []
    for bad in (
        '<a href="#b">',
        '<a href="index.html#b">',
        '<a href="gone.html">',
        '<img src="gone.png">',
        '<a href="../#gone">',
        "see [<code>X</code>][intff_lightning.X]",
        "```results",
    ):
        (tmp_path / "api/index.html").write_text(good + bad)
        (found,) = runpy.run_path(str(ROOT / ".ci/check_site.py"))["problems"](tmp_path)
        assert found.startswith("api/index.html: ")


@needs_browser
@pytest.mark.slow
def test_what_a_reader_could_not_see_is_found(tmp_path):
    looks = runpy.run_path(str(ROOT / ".ci/check_site.py"))["looks"]
    page = '<body style="background: white"><div class="md-content"><p style="color: {}">A</p>{}</div></body>'
    wide = '<div style="width: 800px">B</div>'
    (tmp_path / "pale.html").write_text(page.format("rgb(200, 200, 200)", ""))
    (tmp_path / "scrolls.html").write_text(page.format("black", f'<div style="overflow-x: auto">{wide}</div>'))
    (tmp_path / "wide.html").write_text(page.format("black", wide))
    pale = "text rgb(200, 200, 200) on rgb(255, 255, 255)"
    assert looks(tmp_path, PROGRAM) == [
        f"{scheme}: {line}"
        for scheme in ("dark", "light")
        for line in (
            f"pale.html, 1300 pixels: {pale}",
            f"pale.html, 400 pixels: {pale}",
            "wide.html, 400 pixels: cut off: " + wide,
            "wide.html, 400 pixels: the page is wider than the window",
        )
    ]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_of_others_are_pinned_and_jobs_may_write_only_what_they_must(name):
    may_write = {
        ("release", "publish"): "id-token",
        ("release", "announce"): "contents",
        ("release", "docs"): "contents",
        ("docs", "publish"): "contents",
    }
    for job, content in WORKFLOWS[name]["jobs"].items():
        for step in [content, *content.get("steps", [])]:
            used = step.get("uses", "./")
            assert re.fullmatch(r"\./.*|[\w/-]+@[0-9a-f]{40}", used), used
            assert not used.startswith("./.") or (ROOT / used).is_file()
        granted = content.get("permissions", WORKFLOWS[name]["permissions"])
        assert [scope for scope, right in granted.items() if right == "write"] == [
            *filter(None, [may_write.get((name, job))])
        ]


def test_only_tested_and_checked_versions_are_published():
    jobs = WORKFLOWS["release"]["jobs"]
    assert set(jobs["publish"]["needs"]) == {"test", "build"}
    assert jobs["publish"]["environment"]
    assert not any("run" in step for step in jobs["publish"]["steps"])  # nothing else gets the token
    assert jobs["docs"]["needs"] == jobs["announce"]["needs"] == "publish"
    commands = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert "check_release.py" in commands[0]
    assert "twine check --strict" in commands[-1]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_as_github_reads_them(path):
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    for field in form["body"]:
        kind, attributes = field["type"], field["attributes"]
        assert field.keys() <= {"type", "id", "attributes", "validations"}
        required, optional = {
            "markdown": ({"value"}, set()),
            "textarea": ({"label"}, {"description", "placeholder", "value", "render"}),
            "input": ({"label"}, {"description", "placeholder", "value"}),
            "dropdown": ({"label", "options"}, {"description", "multiple", "default"}),
            "checkboxes": ({"label", "options"}, {"description"}),
        }[kind]
        assert required <= attributes.keys() <= required | optional
        if kind == "checkboxes":
            assert all(option.keys() <= {"label", "required"} for option in attributes["options"])
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    assert any(field.get("validations", {}).get("required") for field in form["body"])
