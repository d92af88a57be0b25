"""A picture of a corpus on its way through the stages: what each one kept, in documents and in text, as an inline SVG.

Widths are shares of the page's, so that the letters stay as large on a phone as on a desk.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pretrain.reporting.tables import byte_size, share

ROW, LABEL, BAR, GAP = 62, 20, 11, 4  # pixels: of a stage, of its line of text, of each of its two bars, between them
MEASURES = ("documents", "bytes")


def funnel(stages: Sequence[Mapping[str, Any]]) -> str:
    """The SVG text. Its colours are the page's: classes kept, lost and track.

    Args:
        stages: summaries of the stages in order, the first one what reads the files.
    """
    whole = {what: max([1, *(stage[f"{what}_out"] for stage in stages)]) for what in MEASURES}
    whole["documents"] = max(whole["documents"], stages[0]["documents_in"])
    rows = [_row(stage, index, whole) for index, stage in enumerate(stages)]
    height = ROW * len(stages)
    return (
        f'<svg class="funnel" width="100%" height="{height}" role="img" '
        f'aria-label="Documents and text that each stage kept">\n{"".join(rows)}</svg>'
    )


def funnel_figure(stages: Sequence[Mapping[str, Any]]) -> str:
    """The funnel with a legend."""
    keys = (("documents", "documents left"), ("bytes", "text left"), ("lost", "dropped by the stage"))
    legend = "".join(f'<i class="key" style="background:var(--{colour})"></i>{what}' for colour, what in keys)
    return f'<figure class="picture">{funnel(stages)}<figcaption>{legend}</figcaption></figure>'


def _row(stage: Mapping[str, Any], index: int, whole: Mapping[str, int]) -> str:
    top = ROW * index
    counts = f"{stage['documents_out']:,} documents, {byte_size(stage['bytes_out'])}"
    parts = [
        f'<text class="name" x="0" y="{top + 14}">{escape(stage["name"])}</text>',
        f'<text x="100%" y="{top + 14}" text-anchor="end">{counts}</text>',
    ]
    for number, what in enumerate(MEASURES):
        y = top + LABEL + number * (BAR + GAP)
        before = stage[f"{what}_in"] if index or what == "documents" else stage[f"{what}_out"]
        kept, lost = stage[f"{what}_out"] / whole[what], max(0, before - stage[f"{what}_out"]) / whole[what]
        title = f"{'documents' if what == 'documents' else 'text'}: {share(kept)} of all is left"
        parts.append(
            f"<g><title>{title}</title>"
            f'<rect class="track" x="0" y="{y}" width="100%" height="{BAR}" rx="2"/>'
            f'<rect class="lost" x="0" y="{y}" width="{min(1, kept + lost):.3%}" height="{BAR}" rx="2"/>'
            f'<rect class="kept {what}" x="0" y="{y}" width="{kept:.3%}" height="{BAR}" rx="2"/></g>'
        )
    return "".join(parts) + "\n"
