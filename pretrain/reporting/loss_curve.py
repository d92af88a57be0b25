"""A picture of a run: training and validation loss against tokens, as an SVG without dependencies."""

from collections.abc import Sequence
from html import escape
from typing import Any

from pretrain.reporting.axes import Point, round_ticks, short

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 40, 44
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #444 } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8884 } .train { stroke: #7aa6d8 } .validation { stroke: #d1495b }
.reference { stroke: #888; stroke-dasharray: 5 4 }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round } circle { fill: #d1495b; stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""


def loss_curve(rows: Sequence[dict[str, Any]], references: dict[str, float], title: str) -> str:
    """The SVG text of a run's losses, in nats per token.

    Args:
        rows: of metrics.jsonl.
        references: name to loss; each is a dashed line.
    """
    train = _smoothed([(row["tokens"], row["train/loss"]) for row in rows if row.get("train/loss") is not None])
    validation = [(row["tokens"], row["val/loss"]) for row in rows if row.get("val/loss") is not None]
    losses = [loss for _, loss in train + validation] + list(references.values())
    if not losses:
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"></svg>\n'
    low, high = min(losses), max(losses)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
    most = max([tokens for tokens, _ in train + validation], default=1) or 1

    def place(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / most
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - point[1]) / (high - low)
        return round(x, 1), round(y, 1)

    parts = [f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>']
    for value in round_ticks(low, high):
        _, y = place((0, value))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in round_ticks(0, most):
        x, _ = place((value, low))
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(value)}</text>')
    taken: list[float] = []
    middle = (train[0][1] + train[-1][1]) / 2 if train else high
    for name, loss in sorted(references.items(), key=lambda item: item[1]):
        _, y = place((0, loss))
        parts.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        label = y - 5 if all(abs(y - other) > 13 for other in taken) else y + 14
        taken.append(y)
        at = f'x="{WIDTH - RIGHT}"' if loss > middle else f'x="{LEFT + 4}"'  # on the side where the curve is far
        anchor = "end" if loss > middle else "start"
        parts.append(f'<text {at} y="{label:.1f}" text-anchor="{anchor}">{escape(name)} {loss:.2f}</text>')
    for name, points in (("train", train), ("validation", validation)):
        path = " ".join(f"{x},{y}" for x, y in map(place, points))
        parts.append(f'<polyline class="{name}" points="{path}"/>')
    parts += [f'<circle cx="{x}" cy="{y}" r="3.5"/>' for x, y in map(place, validation)]
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">tokens; loss in nats per token: training (line), validation (dots)</text>'
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _smoothed(points: list[Point], most: int = 200) -> list[Point]:
    """At most `most` points, each the mean of its neighbours."""
    size = max(1, len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
