"""A picture of a scaling law: loss against tokens by size, both axes logarithmic, as an SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pretrain.reporting.axes import Point, round_ticks_of_powers, short

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 76, 40, 52
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #444 } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8884 } polyline { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""


@dataclass(frozen=True)
class Size:
    """A size of models, with places (tokens, nats per token) that were measured and that the law has."""

    name: str
    measured: Sequence[Point]
    law: Sequence[Point]


def law_picture(sizes: Sequence[Size], title: str) -> str:
    """The SVG text: the measured as dots, the law as lines, a colour a size."""
    places = [point for size in sizes for point in (*size.measured, *size.law)]
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*places, strict=True))
    low, high = low * 0.97, high * 1.03

    def place(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * math.log(point[0] / left) / math.log(right / left)
        y = TOP + (HEIGHT - TOP - BOTTOM) * math.log(high / point[1]) / math.log(high / low)
        return round(x, 1), round(y, 1)

    parts = [f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>']
    for value in round_ticks_of_powers(low, high):
        _, y = place((left, value))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    below = HEIGHT - BOTTOM
    for value in round_ticks_of_powers(left, right):
        x, _ = place((value, low))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{below}"/>')
        parts.append(f'<text x="{x}" y="{below + 18}" text-anchor="middle">{short(value)}</text>')
    for number, size in enumerate(sizes):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x},{y}" for x, y in map(place, size.law))
        parts.append(f'<polyline stroke="{colour}" points="{line}"/>')
        parts += [f'<circle fill="{colour}" cx="{x}" cy="{y}" r="4"/>' for x, y in map(place, size.measured)]
        end = place(size.law[-1])
        parts.append(f'<text x="{end[0] + 8}" y="{end[1] + 4}">{escape(size.name)}</text>')
    about = "tokens; validation loss in nats per token: the law (lines, by parameters outside tables), runs (dots)"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">{about}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )
