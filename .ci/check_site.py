"""Checks a built site: every link, picture and script of a page is there, and every reference became a link."""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LEFT = re.compile(r"\]\[[\w.]|^```|<autoref")  # marks that the builder leaves where it finds nothing
_CODE = ("code", "pre", "script", "style", "annotation")


class _Page(HTMLParser):
    """The targets of a page's links, the places in it that links may name, and its text outside of code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {"", "top"}
        self.text = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("href", "src") if name in given]
        self.places |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "autoref":
            self.text += f"<autoref {given}>"
        if tag in _CODE:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _CODE and self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data


@cache
def _read(path: Path) -> _Page:
    return _Page(path.read_text())


def problems(site: Path) -> list[str]:
    """Return one line for each link that leads nowhere, and for each reference that is left as text."""
    found = []
    for page in sorted(site.rglob("*.html")):
        name, parsed = page.relative_to(site), _read(page)
        for link in parsed.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path)
            target = site / path.lstrip("/") if path.startswith("/") else page.parent / path if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{name}: {link}: there is no such file")
            elif target.suffix == ".html" and unquote(parts.fragment) not in _read(target.resolve()).places:
                found.append(f"{name}: {link}: there is no such place in the page")
        for line in parsed.text.splitlines():
            if _LEFT.search(line):
                found.append(f"{name}: {line.strip()[:100]}")
    return found


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print(*found, sep="\n", file=sys.stderr)
    sys.exit(f"{len(found)} problems" if found else 0)
