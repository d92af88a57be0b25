"""What all pages of the program have in common: no script, no network, light and dark, on a phone as on a desk."""

import re
from collections.abc import Sequence
from html import escape

from pretrain.reporting.examples import one_line

STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --card: #fff; --ink: #1c1e21; --soft: #666b72; --line: #e3e4e6;
  --documents: #2f6db3; --bytes: #7fb2e5; --lost: #e2725b; --track: #eceef0 }
@media (prefers-color-scheme: dark) { :root { --page: #131518; --card: #1b1e22; --ink: #e4e6e9; --soft: #9aa0a8;
  --line: #2e3238; --documents: #4f93de; --bytes: #2f5f93; --lost: #c65a45; --track: #262a2f } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 880px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK JP", sans-serif }
h1 { font-size: 24px; margin: 0 0 16px } h2 { font-size: 18px; margin: 36px 0 12px }
h3 { font-size: 15px; margin: 24px 0 6px }
p { margin: 6px 0 } .soft, figcaption, th { color: var(--soft); font-weight: normal }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px }
@media (max-width: 560px) { .tiles { grid-template-columns: 1fr 1fr } }
.tile, details { background: var(--card); border: 1px solid var(--line); border-radius: 8px }
.tile { padding: 10px 14px; overflow-wrap: anywhere }
.tile b { display: block; font-size: 21px; font-weight: 600; line-height: 1.3 }
.tile span { color: var(--soft); font-size: 13px }
figure { margin: 0 } figcaption { font-size: 13px } .funnel text { font-size: 13px; fill: var(--soft) }
.funnel .name { font-weight: 600; fill: var(--ink) } .track { fill: var(--track) } .lost { fill: var(--lost) }
.documents { fill: var(--documents) } .bytes { fill: var(--bytes) }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin: 0 5px 0 10px; vertical-align: -1px }
.key:first-child { margin-left: 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 14px; width: 100%; white-space: nowrap }
th, td { padding: 5px 0 5px 16px; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
details { margin: 8px 0; overflow: hidden } summary { padding: 8px 14px; cursor: pointer; position: relative }
summary b { font-weight: 600 } summary .count { float: right; color: var(--soft); font-variant-numeric: tabular-nums }
summary .bar { position: absolute; left: 0; bottom: 0; height: 3px; min-width: 3px; background: var(--lost) }
article { padding: 10px 14px; border-top: 1px solid var(--line); overflow-wrap: anywhere }
article .soft { font-size: 13px } code { overflow-wrap: anywhere }
code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace }
pre { margin: 8px 0 0; padding: 10px 12px; background: var(--page); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 260px; overflow-y: auto }
ul { padding: 0 14px 8px 34px; margin: 0 } li { overflow-wrap: anywhere }
"""


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """The text of a page of HTML.

    Args:
        title: as plain text.
        body: pieces of HTML.
        style: rules beside those of all pages.
    """
    joined = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{inline(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{joined}\n</body>\n</html>\n"
    )


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Figures with what they are, both HTML, side by side."""
    shown = "".join(f'<div class="tile"><b>{figure}</b><span>{what}</span></div>' for figure, what in figures)
    return f'<div class="tiles">{shown}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is scrolled where it is too wide; cells are HTML."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def inline(text: str) -> str:
    """Any text as HTML, on one line."""
    return escape(one_line(text))


def breakable(text: str) -> str:
    """A name or a path as HTML, which a narrow column may break between its parts; numbers stay whole."""
    return re.sub(r"(?<=[^\W_])(?=\.[^\W\d])|(?<=[^\W_][_/,=-])(?=[^\W\d])", "<wbr>", inline(text))
