"""What a wheel holds, and what the tree is."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

import intff_lightning


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "lightning_logs", "data", "results", "build", ".venv")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out"), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "intff_lightning",
        f"intff_lightning-{intff_lightning.__version__}.dist-info",
    }
    for needed in ("py.typed", "callbacks/__init__.py", "datamodules/paired.py", "module.py", "__main__.py"):
        assert f"intff_lightning/{needed}" in names


@pytest.mark.parametrize("name", ["callbacks", "datamodules"])
def test_the_links_at_the_top_are_relative(name):
    assert os.readlink(ROOT / name) == f"intff_lightning/{name}"


def test_no_file_is_too_long():
    for path in (ROOT / "intff_lightning").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_public_names_exist():
    for name in intff_lightning.__all__:
        assert hasattr(intff_lightning, name)


def test_users_of_pytorch_lightning_are_told():
    Path("pytorch_lightning.py").write_text("")  # stands for the package, which is not installed
    code = "import sys; sys.path.insert(0, '.'); import pytorch_lightning; import intff_lightning"
    run = [sys.executable, "-W", "error::UserWarning", "-c", code]  # it comes before torch is imported
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1
    assert "UserWarning: intff_lightning builds on `lightning`" in done.stderr
    assert "import lightning.pytorch as pl" in done.stderr


def test_users_of_both_lightnings_are_told_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    importlib.reload(intff_lightning)  # a warning would be an error
