"""The report of a data build as Markdown that also reads well on a terminal.

Whatever comes from a document stands in code, where neither Markdown nor HTML means anything.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretrain.reporting.examples import one_line, visible
from pretrain.reporting.tables import byte_size, share
from pretrain.tracking.console import duration


def markdown(report: Mapping[str, Any]) -> str:
    """The text of report.md."""
    stages = report["stages"]
    sides = [
        f"{name}: {side['documents']:,} documents, {byte_size(side['bytes'])}, {side['tokens']:,} tokens"
        for name, side in report["splits"].items()
    ]
    parts = [
        "# Data report",
        "\n".join(f"- {line}" for line in [*sides, f"vocabulary: {report['vocab_size']:,} ids"]),
        "## Stages",
        _table(
            ["stage", "documents in", "out", "kept", "text in", "out", "kept"],
            [
                [
                    _inline(stage["name"]),
                    f"{stage['documents_in']:,}",
                    f"{stage['documents_out']:,}",
                    share(stage["documents_out"], stage["documents_in"]),
                    byte_size(stage["bytes_in"]),
                    byte_size(stage["bytes_out"]),
                    share(stage["bytes_out"], stage["bytes_in"]),
                ]
                for stage in stages
            ],
        ),
        "## Time and memory",
        _table(
            ["stage", "time", "MB/s", "peak memory"],
            [
                [
                    _inline(stage["name"]),
                    duration(stage["seconds"]),
                    "" if stage["megabytes_per_second"] is None else f"{stage['megabytes_per_second']:,.1f}",
                    byte_size(stage["peak_memory"]),
                ]
                for stage in [*stages, *report["others"]]
            ],
        ),
        *_quarantined(report["quarantined"]),
        "## What was dropped, and why",
        *(part for stage in stages for part in _dropped(stage)),
        f"Manifest: {_inline(report['manifest'])}",
    ]
    return "\n\n".join(parts) + "\n"


def _quarantined(quarantined: Mapping[str, Any]) -> Iterator[str]:
    if not quarantined["count"]:
        return
    yield f"## {quarantined['count']:,} records that cannot be read"
    lines = []
    for row in quarantined["first"]:
        line = "" if row["value"] is None else f" line {row['value']:.0f}"
        lines.append(f"- {_inline(row['source_id'])}{line}: {_inline(row['reason'])}")
    if quarantined["count"] > len(lines):
        lines.append(f"- and {quarantined['count'] - len(lines):,} more")
    yield "\n".join(lines)


def _dropped(stage: Mapping[str, Any]) -> Iterator[str]:
    whole = sum(stage["reasons"].values()) == stage["documents_in"] - stage["documents_out"]
    for rule, count in sorted(stage["reasons"].items(), key=lambda item: -item[1]):
        of_all = f"{count:,} documents, {share(count, stage['documents_in'])} of what came in"
        yield f"### {_inline(stage['name'])}, {_inline(rule)}: {of_all if whole else f'{count:,} times'}"
        for row in stage["examples"][rule]:
            kept = f", which stays: {_inline(row['survivor'])}" if row["survivor"] else ""
            name = f"{_inline(row['id'])} of {_inline(row['source'])}, {_inline(row['source_id'] or '')}"
            yield f"{name}  \n{_inline(row['reason'])}{kept}"
            if row["text"].strip():
                yield _block(row["text"])


def _inline(text: str) -> str:
    """`text` as a span of code, in one line."""
    line = one_line(text) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _block(text: str) -> str:
    """`text` as a block of code."""
    return "\n".join(f"    {line}" for line in visible(text).expandtabs(4).strip("\n").split("\n"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are as wide as they must be; the first one is text, the others are numbers."""
    cells = [list(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = [
        " | ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    rule = " | ".join("-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])
