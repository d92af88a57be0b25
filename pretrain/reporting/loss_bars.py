"""A picture of a sweep: a bar a run with its validation loss, against the references, as an SVG."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pretrain.evaluation.references import named_references
from pretrain.reporting.axes import round_ticks

WIDTH, ROW, BAR = 720, 24, 15  # pixels
TOP, BOTTOM, RIGHT = 64, 44, 24
LETTER, LONGEST = 7.2, 30  # pixels of a letter, about, and the most letters of a run's name
FIGURE = 44  # pixels of a run's figure, which stands before its bar, where no line crosses it
SHOWN = ("uniform", "best n-gram")  # how the references begin that are lines
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #444 } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8884 } .bar { fill: #7aa6d8 } .best { fill: #2f6db3 }
.reference { stroke: #d1495b; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .best { fill: #a9ccf5 } .bar { fill: #4a77ab } }
"""


def loss_bars(results: Sequence[dict[str, Any]], title: str) -> str:
    """The SVG text of the validation losses of runs, in nats per token.

    Losses of different tokens stand on no common axis: then bars are bits per byte, and there are no references.

    Args:
        results: of trainings, in the order of the bars; a loss that is infinite, or not known, has no bar.
    """
    same = all(result["references"] == results[0]["references"] for result in results)
    measured, unit = ("loss", "nats per token") if same else ("bits_per_byte", "bits per byte")
    references = named_references(results[0]["references"]) if results and same else {}
    lines = {name: loss for name, loss in references.items() if name.startswith(SHOWN)}
    names = [_short(Path(result["run"]).name) for result in results]
    values = [result["validation"][measured] for result in results]
    known = [value for value in values if value is not None]
    most = 1.04 * max([*known, *lines.values()], default=1.0)
    left = 20 + FIGURE + LETTER * max(map(len, names), default=0)
    below = TOP + ROW * len(results)

    def across(value: float) -> float:
        return round(left + (WIDTH - left - RIGHT) * value / most, 1)

    parts = [f'<text class="title" x="12" y="22">{escape(title)}: validation loss, {unit}</text>']
    for tick in round_ticks(0, most):
        parts.append(f'<line class="grid" x1="{across(tick)}" x2="{across(tick)}" y1="{TOP}" y2="{below}"/>')
        parts.append(f'<text x="{across(tick)}" y="{below + 18}" text-anchor="middle">{tick:g}</text>')
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        y = TOP + ROW * row + (ROW - BAR) / 2
        parts.append(f'<text x="{left - FIGURE:.1f}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        figure = "–" if value is None else f"{value:.2f}"
        parts.append(f'<text x="{left - 8:.1f}" y="{y + 12}" text-anchor="end">{figure}</text>')
        end = left if value is None else across(value)
        kind = "bar best" if value is not None and value == min(known) else "bar"
        parts.append(f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{end - left:.1f}" height="{BAR}"/>')
    for name, loss in lines.items():
        x = across(loss)
        anchor = "end" if x > WIDTH / 2 else "start"
        parts.append(f'<line class="reference" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{below}"/>')
        parts.append(f'<text x="{x}" y="{TOP - 14}" text-anchor="{anchor}">{escape(name)} {loss:.2f}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {below + BOTTOM}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
