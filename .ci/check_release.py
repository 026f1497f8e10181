"""Checks that the tree agrees with a tag such as ``v0.2.0``, and prints the changelog of that version."""

import re
import sys
from pathlib import Path


def notes(tag: str, root: Path) -> str:
    """Return the section of ``CHANGELOG.md`` that belongs to a tag.

    Raises:
        SystemExit: The tag is not the version of the package or of ``CITATION.cff``, or the changelog has no section
            for it.
    """
    for name, pattern in {
        "intff_lightning/_version.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
    }.items():
        (version,) = re.findall(pattern, (root / name).read_text(), flags=re.MULTILINE)
        if tag != f"v{version}":
            sys.exit(f"{name} has version {version}, which does not belong to the tag {tag}")
    sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, text = section.partition("\n")
        if title.split()[0] == tag.removeprefix("v") and text.strip():
            return text.strip()
    sys.exit(f"CHANGELOG.md has no section '## {tag.removeprefix('v')}'")


if __name__ == "__main__":
    print(notes(sys.argv[1], Path(__file__).parents[1]))
