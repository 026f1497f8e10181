"""Self-contained HTML pages: one style for light and dark, any width, and no file or script from elsewhere."""

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #fff; --dim: #555; --line: #ddd; --soft: #f6f6f6;
  --mark: #b45309; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --back: #1a1a1a; --dim: #b0b0b0; --line: #444; --soft: #262626; --mark: #f0a050; }
  img.plot { filter: invert(.9) hue-rotate(180deg) brightness(1.3); }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.about { color: var(--dim); margin-top: .25rem; } p.note { border-left: 4px solid var(--mark); padding-left: .75rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
table.units td:nth-child(2) { overflow-wrap: anywhere; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
th:first-child, td:first-child, table.units td:nth-child(2), table.units th:nth-child(2) { text-align: left; }
th { border-bottom: 2px solid var(--dim); }
tr.whole td { font-weight: 600; border-top: 2px solid var(--dim); }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem;
  grid-auto-flow: dense; }
figure { margin: 0; min-width: 0; border: 1px solid var(--line); border-radius: 6px; padding: .75rem; }
figure img { max-width: 100%; height: auto; display: block; margin: auto; background: #fff; }
figcaption { color: var(--dim); font-size: .9rem; margin-top: .5rem; } figcaption b { color: var(--text); }
figure.wide { grid-column: 1 / -1; }
pre { background: var(--soft); padding: 1rem; font-size: .85rem; white-space: pre-wrap; }
summary { cursor: pointer; }
@media (max-width: 40rem) { table { font-size: .7rem; } th, td { padding: .3rem .2rem; } }
"""


def page(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """Return a page; ``parts`` are HTML, and empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    end = f"\n<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body>\n{body}{end}\n</body></html>\n"
    )


def image(data: bytes, format: str, title: str, plot: bool = True) -> str:
    """Return a picture; a dark page inverts plots, but no photographs."""
    kind = {"png": "image/png", "svg": "image/svg+xml"}[format]
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    inverted = ' class="plot"' if plot else ""
    return f'<img alt="{html.escape(title)}" src="{source}"{inverted}>'


def figure(picture: str, title: str, text: str, wide: bool = False) -> str:
    """Return a picture with its caption."""
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{picture}<figcaption><b>{html.escape(title)}.</b> {html.escape(text)}</figcaption></figure>"


def table(lines: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table, whose first line is the head; the line of the whole network stands out."""
    head, *body = [[html.escape(cell).replace("\n", "<br>") for cell in line] for line in lines]
    rows = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    for line in body:
        whole = ' class="whole"' if line[0] == "network" else ""
        rows.append(f"<tr{whole}>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>")
    return f'<table class="{kind}">{"".join(rows)}</table>'
