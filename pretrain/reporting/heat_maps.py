"""Heat maps of attention weights as inline SVG: the more a query attends to a key, the stronger the colour."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pretrain.reporting.page_frame import inline

SHADES = 12  # steps of the colour
ROW = 15  # pixels of a query's row in the map with labels
LABELS, ABOVE = 92, 84  # pixels of the labels beside it, and above it
LONGEST = 11  # characters of a label

HEAT_STYLE = """
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(86px, 1fr)); gap: 10px; margin-top: 14px }
.heads figure svg { width: 100%; height: auto; aspect-ratio: 1; border: 1px solid var(--line); border-radius: 3px;
  background: var(--card); display: block }
.heat path { fill: var(--c0) } .heat text { font: 11px ui-monospace, Menlo, Consolas, monospace; fill: var(--soft) }
.labelled svg { overflow: visible; display: block } .ground { fill: none; stroke: var(--line) }
"""


def head_maps(heads: Sequence[Mapping[str, Any]], tokens: Sequence[str]) -> str:
    """The first head with its tokens, and all of them, small.

    Args:
        heads: of inspection's attention view: layer, head and weights (T, S), which lie between 0 and 1.
        tokens: labels of the S keys, and of the T queries where these are as many.
    """
    first = heads[0]
    parts = [_labelled(np.array(first["weights"]), tokens, f"Layer {first['layer']}, head {first['head']}")]
    if len(heads) > 1:
        small = "".join(_small(np.array(head["weights"]), f"{head['layer']}.{head['head']}") for head in heads)
        parts.append(f'<div class="heads">{small}</div>')
    return "\n".join(parts)


def _labelled(weights: np.ndarray, tokens: Sequence[str], title: str) -> str:
    rows, columns = weights.shape
    names = list(tokens) if len(tokens) == rows else [str(number) for number in range(rows)]
    beside = "".join(
        f'<text x="-6" y="{ROW * row + 11}" text-anchor="end">{_label(name)}</text>' for row, name in enumerate(names)
    )
    # A nested SVG has its place as a share of the width; what is inside is turned around that place.
    above = "".join(
        f'<svg x="{(column + 0.5) / columns:.2%}" y="-5"><text transform="rotate(-90)" y="4">{_label(name)}</text>'
        "</svg>"
        for column, name in enumerate(list(tokens)[:columns] if len(tokens) >= columns else [])
    )
    height = ROW * rows
    return (
        f'<figure class="heat labelled"><figcaption>{escape(title)}: a row a query, a column a key</figcaption>'
        f'<svg style="margin:{ABOVE}px 0 0 {LABELS}px;width:min(calc(100% - {LABELS}px),{24 * columns}px)" '
        f'height="{height}" role="img" aria-label="{escape(title)}"><rect class="ground" width="100%" height="100%"/>'
        f'<svg width="100%" height="{height}" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">'
        f"{_cells(weights)}</svg>{beside}{above}</svg></figure>"
    )


def _small(weights: np.ndarray, title: str) -> str:
    rows, columns = weights.shape
    return (
        f'<figure class="heat"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" role="img" '
        f'aria-label="Attention of head {escape(title)}">{_cells(weights)}</svg></figure>'
    )


def _cells(weights: np.ndarray) -> str:
    """A path for each shade. Shades go by the root, for most weights are small."""
    shades = np.ceil(SHADES * np.sqrt(np.clip(weights, 0, 1)) - 0.25).astype(int)
    paths = []
    for shade in range(1, SHADES + 1):
        cells = "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(shades == shade).tolist())
        if cells:
            paths.append(f'<path fill-opacity="{shade / SHADES:.2f}" d="{cells}"/>')
    return "".join(paths)


def _label(token: str) -> str:
    return inline(token if len(token) <= LONGEST else token[: LONGEST - 1] + "…")
