"""The report of a data build as one page of HTML: no script, no network, light and dark, on a phone as on a desk."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pretrain.reporting.examples import one_line, visible
from pretrain.reporting.funnel import funnel
from pretrain.reporting.tables import byte_size, share
from pretrain.tracking.console import duration

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
article .soft { font-size: 13px } code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace }
pre { margin: 8px 0 0; padding: 10px 12px; background: var(--page); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 260px; overflow-y: auto }
ul { padding: 0 14px 8px 34px; margin: 0 } li { overflow-wrap: anywhere }
"""


def page(report: Mapping[str, Any]) -> str:
    """The text of report.html."""
    stages = report["stages"]
    parts = [
        "<h1>Data report</h1>",
        _tiles(report),
        "<h2>From files to documents</h2>",
        f'<figure class="picture">{funnel(stages)}<figcaption><i class="key" style="background:var(--documents)"></i>'
        'documents left<i class="key" style="background:var(--bytes)"></i>text left'
        '<i class="key" style="background:var(--lost)"></i>dropped by the stage</figcaption></figure>',
        "<h2>Stages</h2>",
        _stages(stages),
        "<h2>What was dropped, and why</h2>",
        '<p class="soft">Open a rule to see the first documents that it dropped. Others: '
        "<code>pretrain data show dropped=STAGE rule=RULE</code></p>",
        *(part for stage in stages if stage["reasons"] for part in _dropped(stage)),
        *_quarantined(report["quarantined"]),
        "<h2>Time and memory</h2>",
        _costs([*stages, *report["others"]]),
        f'<p class="soft">Manifest: <code>{_line(report["manifest"])}</code></p>',
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _tiles(report: Mapping[str, Any]) -> str:
    first, last = report["stages"][0], report["stages"][-1]
    sides = report["splits"]
    tokens = sum(side["tokens"] for side in sides.values())
    size = sum(side["bytes"] for side in sides.values())
    tiles = [
        (f"{last['documents_out']:,}", f"documents, {share(last['documents_out'], first['documents_in'])} of all"),
        (byte_size(last["bytes_out"]), f"of text, {share(last['bytes_out'], first['bytes_out'])} of all"),
        *((f"{side['tokens']:,}", f"{escape(name)} tokens") for name, side in sides.items()),
        (f"{report['vocab_size']:,}", f"ids; {size / max(1, tokens):.2f} bytes a token"),
        (f"{report['quarantined']['count']:,}", "unreadable records"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{b}</b><span>{s}</span></div>' for b, s in tiles)
        + "</div>"
    )


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _line(stage["name"]),
            f"{stage['documents_in']:,}",
            f"{stage['documents_out']:,}",
            share(stage["documents_out"], stage["documents_in"]),
            byte_size(stage["bytes_in"]),
            byte_size(stage["bytes_out"]),
            share(stage["bytes_out"], stage["bytes_in"]),
        ]
        for stage in stages
    ]
    return _table(["stage", "documents in", "out", "kept", "text in", "out", "kept"], rows)


def _costs(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _line(stage["name"]),
            duration(stage["seconds"]),
            "" if stage["megabytes_per_second"] is None else f"{stage['megabytes_per_second']:,.1f}",
            byte_size(stage["peak_memory"]),
        ]
        for stage in stages
    ]
    return _table(["stage", "time", "MB/s", "peak memory"], rows)


def _quarantined(quarantined: Mapping[str, Any]) -> Iterator[str]:
    if not quarantined["count"]:
        return
    first = f"the first {len(quarantined['first'])}" if len(quarantined["first"]) > 1 else "it"
    yield f"<h2>{quarantined['count']:,} records that cannot be read</h2>"
    yield f"<details><summary>Show {first}</summary><ul>"
    for row in quarantined["first"]:
        line = "" if row["value"] is None else f" line {row['value']:.0f}"
        yield f"<li><code>{_line(row['source_id'])}</code>{line}: {_line(row['reason'])}</li>"
    if quarantined["count"] > len(quarantined["first"]):
        yield f"<li>and {quarantined['count'] - len(quarantined['first']):,} more</li>"
    yield "</ul></details>"


def _dropped(stage: Mapping[str, Any]) -> Iterator[str]:
    removed = sum(stage["reasons"].values())
    gone = stage["documents_in"] - stage["documents_out"]
    of_all = f"{gone:,} of {stage['documents_in']:,}, {share(gone, stage['documents_in'])}"
    if removed > gone:  # parts of documents that stay
        of_all += f", and {removed - gone:,} passages"
    yield f'<h3>{_line(stage["name"])} <span class="soft">{of_all}</span></h3>'
    for rule, count in sorted(stage["reasons"].items(), key=lambda item: -item[1]):
        cases = "\n".join(_example(row) for row in stage["examples"][rule])
        yield (
            f'<details><summary><b>{_line(rule)}</b><span class="count">{count:,}</span>'
            f'<i class="bar" style="width:{count / removed:.2%}"></i></summary>\n{cases}</details>'
        )


def _example(row: Mapping[str, Any]) -> str:
    kept = f"; <code>{_line(row['survivor'])}</code> stays" if row["survivor"] else ""
    where = f"{_line(row['source'])}, {_line(row['source_id'] or '')}"
    text = f'<pre dir="auto">{escape(visible(row["text"]))}</pre>' if row["text"].strip() else ""
    return (
        f"<article><div>{_line(row['reason'])}{kept}</div>"
        f'<div class="soft">{where}, <code>{_line(row["id"])}</code></div>{text}</article>'
    )


def _line(text: str) -> str:
    return escape(one_line(text))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
