"""The report of a data build as one page of HTML."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pretrain.reporting.examples import visible
from pretrain.reporting.funnel import funnel_figure
from pretrain.reporting.page_frame import document, inline, table, tiles
from pretrain.reporting.tables import byte_size, share
from pretrain.tracking.console import duration


def page(report: Mapping[str, Any]) -> str:
    """The text of report.html."""
    stages = report["stages"]
    parts = [
        "<h1>Data report</h1>",
        _tiles(report),
        "<h2>From files to documents</h2>",
        funnel_figure(stages),
        "<h2>Stages</h2>",
        _stages(stages),
        "<h2>What was dropped, and why</h2>",
        '<p class="soft">Open a rule to see the first documents that it dropped. Others: '
        "<code>pretrain data show dropped=STAGE rule=RULE</code></p>",
        *(part for stage in stages if stage["reasons"] for part in _dropped(stage)),
        *_quarantined(report["quarantined"]),
        "<h2>Time and memory</h2>",
        _costs([*stages, *report["others"]]),
        f'<p class="soft">Manifest: <code>{inline(report["manifest"])}</code></p>',
    ]
    return document("Data report", parts)


def _tiles(report: Mapping[str, Any]) -> str:
    first, last = report["stages"][0], report["stages"][-1]
    sides = report["splits"]
    tokens = sum(side["tokens"] for side in sides.values())
    size = sum(side["bytes"] for side in sides.values())
    return tiles(
        [
            (f"{last['documents_out']:,}", f"documents, {share(last['documents_out'], first['documents_in'])} of all"),
            (byte_size(last["bytes_out"]), f"of text, {share(last['bytes_out'], first['bytes_out'])} of all"),
            *((f"{side['tokens']:,}", f"{escape(name)} tokens") for name, side in sides.items()),
            (f"{report['vocab_size']:,}", f"ids; {size / max(1, tokens):.2f} bytes a token"),
            (f"{report['quarantined']['count']:,}", "unreadable records"),
        ]
    )


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            inline(stage["name"]),
            f"{stage['documents_in']:,}",
            f"{stage['documents_out']:,}",
            share(stage["documents_out"], stage["documents_in"]),
            byte_size(stage["bytes_in"]),
            byte_size(stage["bytes_out"]),
            share(stage["bytes_out"], stage["bytes_in"]),
        ]
        for stage in stages
    ]
    return table(["stage", "documents in", "out", "kept", "text in", "out", "kept"], rows)


def _costs(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            inline(stage["name"]),
            duration(stage["seconds"]),
            "" if stage["megabytes_per_second"] is None else f"{stage['megabytes_per_second']:,.1f}",
            byte_size(stage["peak_memory"]),
        ]
        for stage in stages
    ]
    return table(["stage", "time", "MB/s", "peak memory"], rows)


def _quarantined(quarantined: Mapping[str, Any]) -> Iterator[str]:
    if not quarantined["count"]:
        return
    first = f"the first {len(quarantined['first'])}" if len(quarantined["first"]) > 1 else "it"
    yield f"<h2>{quarantined['count']:,} records that cannot be read</h2>"
    yield f"<details><summary>Show {first}</summary><ul>"
    for row in quarantined["first"]:
        place = "" if row["value"] is None else f" line {row['value']:.0f}"
        yield f"<li><code>{inline(row['source_id'])}</code>{place}: {inline(row['reason'])}</li>"
    if quarantined["count"] > len(quarantined["first"]):
        yield f"<li>and {quarantined['count'] - len(quarantined['first']):,} more</li>"
    yield "</ul></details>"


def _dropped(stage: Mapping[str, Any]) -> Iterator[str]:
    removed = sum(stage["reasons"].values())
    gone = stage["documents_in"] - stage["documents_out"]
    of_all = f"{gone:,} of {stage['documents_in']:,}, {share(gone, stage['documents_in'])}"
    if removed > gone:  # parts of documents that stay
        of_all += f", and {removed - gone:,} passages"
    yield f'<h3>{inline(stage["name"])} <span class="soft">{of_all}</span></h3>'
    for rule, count in sorted(stage["reasons"].items(), key=lambda item: -item[1]):
        cases = "\n".join(_example(row) for row in stage["examples"][rule])
        yield (
            f'<details><summary><b>{inline(rule)}</b><span class="count">{count:,}</span>'
            f'<i class="bar" style="width:{count / removed:.2%}"></i></summary>\n{cases}</details>'
        )


def _example(row: Mapping[str, Any]) -> str:
    kept = f"; <code>{inline(row['survivor'])}</code> stays" if row["survivor"] else ""
    where = f"{inline(row['source'])}, {inline(row['source_id'] or '')}"
    text = f'<pre dir="auto">{escape(visible(row["text"]))}</pre>' if row["text"].strip() else ""
    return (
        f"<article><div>{inline(row['reason'])}{kept}</div>"
        f'<div class="soft">{where}, <code>{inline(row["id"])}</code></div>{text}</article>'
    )
