"""Adds the built documentation of a version to the folder that holds those of all versions.

``python .ci/add_version.py SITE PAGES VERSION`` copies SITE to PAGES/VERSION. ``latest`` is a copy of the newest
release, and ``versions.json`` fills the menu of versions. The start page leads to ``latest``, or to ``dev`` before the
first release.
"""

import json
import re
import shutil
import sys
from pathlib import Path

_RELEASE = re.compile(r"\d+(?:\.\d+)*")
_START = '<!doctype html><meta charset="utf-8"><title>{0}</title><meta http-equiv="refresh" content="0; url={0}/">\n'


def add(site: Path, pages: Path, version: str) -> None:
    """Add a version, or replace it. Other versions stay as they are."""
    _copy(site, pages / version)
    found = {page.parent.name for page in pages.glob("*/index.html")} - {"latest"}
    versions = sorted(found, key=_age)
    releases = [name for name in versions if _RELEASE.fullmatch(name)]
    if releases:
        _copy(pages / releases[0], pages / "latest")
    entries = [
        {"version": name, "title": name, "aliases": ["latest"] if name in releases[:1] else []} for name in versions
    ]
    (pages / "versions.json").write_text(json.dumps(entries, indent=1) + "\n")
    (pages / "index.html").write_text(_START.format("latest" if releases else version))
    (pages / ".nojekyll").touch()  # files whose names begin with an underscore are pages, too


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _age(name: str) -> tuple[list[int], bool]:
    """Return a key that sorts ``dev`` first, then new before old, and a release before its release candidates."""
    numbers = _RELEASE.match(name)
    return [-int(number) for number in numbers[0].split(".")] if numbers else [], not _RELEASE.fullmatch(name)


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
