"""Pages in a real browser: Chromium from the system's packages, without a window."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium among the system's packages")

_MEASURE = """
const wide = [...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1 || one.scrollWidth > one.clientWidth + 1
    && getComputedStyle(one).display !== "inline");
}).map(one => one.outerHTML.slice(0, 200));
"""


def look(page: Path, width: int, dark: bool, script: str = "null") -> dict:
    """Open a copy of a page in a window of this width.

    Returns:
        ``result`` of the script's last expression, and what every page is asked after it: ``wide`` (elements that are
        cut off), ``width`` of the window, ``back`` (colour of the background) and ``text``.
    """
    inner = page.parent / f"{page.stem}.inner.html"
    inner.write_text(page.read_text())
    outer = page.parent / f"{page.stem}.outer.html"
    ask = f"""
      const frame = document.querySelector("iframe");
      frame.onload = () => {{
        const answer = frame.contentWindow.eval({json.dumps(f"const result = eval({json.dumps(script)}); {_MEASURE}")}
          + ` const style = getComputedStyle(document.body);
          JSON.stringify({{result, wide, width: innerWidth, back: style.backgroundColor, text: style.color}})`);
        document.querySelector("pre").textContent = answer;
      }};
      frame.src = {json.dumps(inner.name)};
    """  # an iframe, since a window has a smallest width
    frame = f'<iframe style="width: {width}px; height: 900px; border: 0"></iframe>'
    outer.write_text(f"{frame}<pre></pre><script>{ask}</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [PROGRAM, *options, f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", outer.absolute().as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]))
