"""Checks a built site: every link, picture and script of a page is there, and every reference became a link.

If Chromium is among the system's packages, it opens every page in a wide and in a narrow window, light and dark:
nothing may be cut off, and text must stand out from what is behind it.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
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


# -------------------------------------------------------------------- in a browser

_MEASURE = """
const style = one => getComputedStyle(one);
const scrolls = one => one !== document.body
  && (/auto|scroll/.test(style(one).overflowX) || scrolls(one.parentElement));
const light = color => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part, k) => {
  const share = part / 255;
  return sum + [0.2126, 0.7152, 0.0722][k] * (share > 0.04 ? ((share + 0.055) / 1.055) ** 2.4 : share / 12.92);
}, 0.05);
const [text, back] = [document.querySelector("p") || document.body, document.body].map(style);
const [dark, bright] = [light(text.color), light(back.backgroundColor)].sort((a, b) => a - b);
[...document.querySelectorAll(".md-content *")].filter(one => {
  const box = one.getBoundingClientRect();
  if (!box.width || !box.height || style(one).position === "absolute") return false;
  return (box.right > innerWidth + 1 || box.left < -1) && !scrolls(one.parentElement)
    || style(one).overflowX === "hidden" && one.scrollWidth > one.clientWidth + 1;
}).slice(0, 3).map(one => `cut off: ${one.outerHTML.slice(0, 80)}`).concat(
  document.documentElement.scrollWidth > innerWidth + 1 ? ["the page is wider than the window"] : [],
  bright / dark < 4.5 ? [`text ${text.color} on ${back.backgroundColor}`] : [],
  document.querySelector(".md-content *") ? [] : ["no content"])
"""
_ASK = """
const found = [];
(async () => {
  for (const width of [1300, 400]) for (const page of PAGES) {
    const frame = document.createElement("iframe");  // a window has a smallest width
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    await new Promise(done => { frame.onload = done; frame.src = page; document.body.append(frame); });
    await new Promise(done => setTimeout(done, 50));
    for (const line of frame.contentWindow.eval(MEASURE)) found.push(`${page}, ${width} pixels: ${line}`);
    frame.remove();
  }
  document.querySelector("pre").textContent = JSON.stringify(found);
})();
"""


def looks(site: Path, browser: str) -> list[str]:
    """Return one line for each thing that a reader could not see; the pages stand in ``site``."""
    names = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    pages = json.dumps([name for name in names if name != "404.html"])  # its styles are those of the server's root
    script = _ASK.replace("PAGES", pages).replace("MEASURE", json.dumps(_MEASURE))
    found = []
    with tempfile.TemporaryDirectory() as home, tempfile.NamedTemporaryFile("w", dir=site, suffix=".html") as asking:
        asking.write(f"<body><pre></pre><script>{script}</script></body>")
        asking.flush()
        for scheme, number in {"dark": 0, "light": 1}.items():
            options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
            options += [f"--blink-settings=preferredColorScheme={number}", "--virtual-time-budget=600000"]
            command = [browser, *options, f"--user-data-dir={home}", "--dump-dom", Path(asking.name).resolve().as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
            answer = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
            if answer is None or not answer[1]:
                return [f"{scheme}: the browser gave no answer"]
            found += [f"{scheme}: {line}" for line in json.loads(html.unescape(answer[1]))]
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1])
    found = problems(site)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("the pages are not opened: there is no Chromium among the system's packages")
    else:
        found += looks(site, browser)
    print(*found, sep="\n", file=sys.stderr)
    sys.exit(f"{len(found)} problems" if found else 0)
