"""Curves of runs as inline SVG, for pages that are read on a desk and on a phone.

Places across are shares of the page's width and places down are pixels, so that letters and lines are as large on a
phone as on a desk; only the curves themselves, in an SVG inside, are stretched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from pretrain.reporting.axes import Gapped, Point, round_ticks, round_ticks_of_powers, short, smoothed, thinned

TOP, BOTTOM = 14, 42  # pixels above and below the curves: the numbers and the name of the axis
ACROSS = 1000  # units of the curves' own SVG
LETTER, LINE = 6.4, 14  # pixels of a letter and of a line of text, about
WIDTHS = (250, 780)  # pixels of a plot on a phone and on a desk: labels must be readable on both
CEILING = 1.5  # times the usual values and the levels; what is higher, as a spike, is cut off

CHART_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 12px }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 20px 8px 14px;
  min-width: 0 }
.chart h3 { margin: 0 0 2px; font-weight: 600 }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 4px; font-size: 13px; color: var(--soft) }
.legend span { overflow-wrap: anywhere }
.chart svg { display: block; overflow: visible }
.chart .legend svg { display: inline-block; width: 22px; height: 8px; margin-right: 6px; vertical-align: 1px }
.curves { margin-left: 46px; width: calc(100% - 46px) }
.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums }
.chart .grid { stroke: var(--line) } .chart .inner { overflow: hidden }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; stroke: var(--curve) }
.faint { stroke-width: 1; stroke-opacity: .32 } .dashed { stroke-dasharray: 7 4 } .dotted { stroke-dasharray: 2 3 }
.dot { fill: var(--curve) } .dot.dashed,
.dot.dotted { fill: var(--card); stroke: var(--curve); stroke-width: 1.5; stroke-dasharray: none }
.level { stroke: var(--soft); stroke-dasharray: 3 4; stroke-opacity: .8 }
.chart .label { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round }
.mark { stroke: var(--lost); stroke-width: 2 }
"""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        points: places, ascending, with values; a gap where there is none.
        colour: number of its colour, from 0.
        smooth: whether it is smoothed, with the values themselves faintly behind.
        dots: whether each value has a dot.
    """

    name: str
    points: Sequence[Gapped]
    colour: int = 0
    smooth: bool = False
    dots: bool = False

    @property
    def style(self) -> str:
        """Colours come again with dashes, then with dots."""
        return f"c{self.colour % COLOURS}" + LINES[self.colour // COLOURS % len(LINES)]


WINDOWS = 40  # windows of smoothing that a curve is long
MOST_POINTS = 1200  # of a curve, before it is smoothed
COLOURS = 6  # --c0 to --c5 of a page
LINES = ("", " dashed", " dotted")


def chart(
    title: str,
    curves: Sequence[Curve],
    across: str,
    *,
    levels: Mapping[str, float] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
    logarithmic: bool = False,
    from_zero: bool = False,
    faint: bool = True,
    height: int = 180,
) -> str:
    """A card with a title, a legend where there are several curves, and the curves; nothing where no curve has a value.

    Args:
        across: what the horizontal axis counts.
        levels: name to a value that is marked by a line across.
        marks: name to the places that are marked below.
        logarithmic: whether the vertical axis is; values of 0 and less are gaps there.
        from_zero: whether the vertical axis begins at 0.
        faint: whether what was smoothed shows faintly behind its curve.
        height: pixels of the plot.
    """
    levels, marks = levels or {}, marks or {}
    if logarithmic:
        curves = [_above_zero(curve) for curve in curves]
    curves = [replace(curve, points=thinned(curve.points, MOST_POINTS)) for curve in curves]
    curves = [curve for curve in curves if any(value is not None for _, value in curve.points)]
    if not curves:
        return ""
    frame = Frame.around(curves, levels, logarithmic, from_zero, height)
    lines = [_line(curve) for curve in curves]
    named = f"{title}, by {across}"
    body = [
        *_axes(frame, across),
        f'<svg class="inner" width="100%" height="{height}" y="{TOP}" viewBox="0 0 {ACROSS} {height}" '
        f'preserveAspectRatio="none">{"".join(_paths(curves, lines, frame, faint))}</svg>',
        *(_dots(curve, frame) for curve in curves if curve.dots),
        *_marks(marks, frame),
        *_levels(levels, lines, frame),
    ]
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>{_legend(curves)}'
        f'<svg class="curves" height="{TOP + height + BOTTOM}" role="img" aria-label="{escape(named)}">\n'
        + "\n".join(body)
        + "\n</svg></figure>"
    )


@dataclass(frozen=True)
class Frame:
    """From places and values to shares of the width and pixels."""

    left: float
    right: float
    low: float
    high: float
    logarithmic: bool
    height: int

    @staticmethod
    def around(
        curves: Sequence[Curve], levels: Mapping[str, float], logarithmic: bool, from_zero: bool, height: int
    ) -> "Frame":
        """The frame that holds the curves and the levels."""
        values = sorted(value for curve in curves for _, value in curve.points if value is not None)
        usual = max(values[int(0.98 * (len(values) - 1))], *levels.values(), 0)
        low, high = min([*values, *levels.values()]), max([*values, *levels.values()])
        if logarithmic:
            margin = (high / low) ** 0.05 if high > low else 1.5
            low, high = low / margin, high * margin
        else:
            high = min(high, CEILING * usual) if usual > 0 else high
            margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            low, high = (min(0.0, low) if from_zero else low - margin), high + margin
        places = [place for curve in curves for place, _ in curve.points]
        return Frame(0.0, max(places) or 1.0, low, high, logarithmic, height)

    def x(self, place: float) -> float:
        """From 0 to 1."""
        return (place - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels below the upper edge of the curves."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.height * (high - value) / (high - low)


def _above_zero(curve: Curve) -> Curve:
    points = [(place, value if value is not None and value > 0 else None) for place, value in curve.points]
    return replace(curve, points=points)


def _axes(frame: Frame, across: str) -> list[str]:
    ticks = (round_ticks_of_powers if frame.logarithmic else round_ticks)(
        frame.low, frame.high, max(3, frame.height // 34)
    )
    parts = []
    for value in ticks:
        y = TOP + frame.y(value)
        parts.append(
            f'<line class="grid" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
        )
    below = TOP + frame.height
    parts += [
        f'<text x="{frame.x(value):.2%}" y="{below + 18}" text-anchor="middle">{short(value)}</text>'
        for value in round_ticks(frame.left, frame.right, 5)
    ]
    parts.append(f'<text x="50%" y="{below + 36}" text-anchor="middle">{escape(across)}</text>')
    return parts


def _line(curve: Curve) -> list[Gapped]:
    """What is drawn of a curve."""
    window = len(curve.points) // WINDOWS
    return thinned(smoothed(curve.points, window) if curve.smooth and window > 1 else curve.points)


def _paths(curves: Sequence[Curve], lines: Sequence[Sequence[Gapped]], frame: Frame, faint: bool) -> list[str]:
    behind = [_path(thinned(curve.points), frame, f"curve faint {curve.style}") for curve in curves if curve.smooth]
    above = [_path(line, frame, f"curve {curve.style}") for curve, line in zip(curves, lines, strict=True)]
    return (behind if faint else []) + above


def _path(points: Sequence[Gapped], frame: Frame, style: str) -> str:
    """A path with a move behind each gap; a value between two gaps is a line of no length, which is a dot."""
    commands, after_gap = [], True
    for place, value in points:
        if value is None:
            after_gap = True
            continue
        at = f"{ACROSS * frame.x(place):.1f} {frame.y(value):.1f}"
        commands.append(f"M{at}h0" if after_gap else f"L{at}")
        after_gap = False
    return f'<path class="{style}" vector-effect="non-scaling-stroke" d="{"".join(commands)}"/>'


def _dots(curve: Curve, frame: Frame) -> str:
    return "".join(
        f'<circle class="dot {curve.style}" cx="{frame.x(place):.2%}" cy="{TOP + frame.y(value):.1f}" r="3">'
        f"<title>{escape(curve.name)}, {short(place)}: {value:.4g}</title></circle>"
        for place, value in thinned(curve.points, 60)
        if value is not None and frame.low <= value <= frame.high
    )


def _marks(marks: Mapping[str, Sequence[float]], frame: Frame) -> list[str]:
    """Short lines that stand on the axis."""
    below = TOP + frame.height
    found = []
    for name, places in marks.items():
        shares = sorted({round(frame.x(place), 3) for place in places})
        lines = "".join(f'<line class="mark" x1="{x:.1%}" x2="{x:.1%}" y1="{below - 9}" y2="{below}"/>' for x in shares)
        found.append(f"<g><title>{escape(name)}</title>{lines}</g>")
    return found


def _legend(curves: Sequence[Curve]) -> str:
    if len(curves) < 2:
        return ""
    items = "".join(
        f'<span><svg aria-hidden="true"><line class="curve {curve.style}" x1="1" x2="21" y1="4" y2="4"/>'
        + (f'<circle class="dot {curve.style}" cx="11" cy="4" r="3"/>' if curve.dots else "")
        + f"</svg>{escape(curve.name)}</span>"
        for curve in curves
    )
    return f'<div class="legend">{items}</div>'


def _levels(levels: Mapping[str, float], curves: Sequence[Sequence[Gapped]], frame: Frame) -> list[str]:
    """Dashed lines with their names, each where fewest curves, lines and other names lie."""
    taken: list[tuple[float, float, int]] = []  # baseline, share of a phone's width, side
    lines, labels = [], []
    drawn = [
        [(frame.x(place), frame.y(value)) for place, value in thinned(curve, 100) if value is not None]
        for curve in curves
    ]
    heights = {name: frame.y(value) for name, value in levels.items()}
    for name, value in sorted(levels.items(), key=lambda item: item[1]):
        y = heights[name]
        text = f"{name} · {value:.2f}"
        lines.append(f'<line class="level" x2="100%" y1="{TOP + y:.1f}" y2="{TOP + y:.1f}"/>')

        def cost(place: tuple[int, float], text: str = text, own: str = name) -> float:
            side, baseline = place
            others = [other for key, other in heights.items() if key != own]
            return _crowding(text, side, baseline, drawn, others, taken, frame)

        side, baseline = min(((side, y + shift) for shift in (-5.0, 14.0) for side in (1, 0)), key=cost)
        taken.append((baseline, len(text) * LETTER, side))
        at = 'x="100%" text-anchor="end"' if side else 'x="4"'
        labels.append(f'<text class="label" {at} y="{TOP + baseline:.1f}">{escape(text)}</text>')
    return lines + labels


def _crowding(
    text: str,
    side: int,
    baseline: float,
    curves: Sequence[Sequence[Point]],
    others: Sequence[float],
    taken: Sequence[tuple[float, float, int]],
    frame: Frame,
) -> float:
    """How much lies where a label would: other labels count most, then curves, then other levels."""
    top, bottom = baseline - 11, baseline + 3
    found = 0.0
    if top < -TOP or bottom > frame.height:
        found += 100
    found += 50 * sum(
        abs(baseline - line) < LINE and (side == there or (len(text) * LETTER + wide) > WIDTHS[0])
        for line, wide, there in taken
    )
    for width in WIDTHS:
        share = min(1.0, (len(text) * LETTER + 6) / width)
        left, right = (1 - share, 1.0) if side else (0.0, share)
        for curve in curves:
            near = [y for x, y in curve if left <= x <= right]
            found += 10 * sum(top - 3 <= y <= bottom + 3 for y in near) / max(1, len(curve))
            found += 5 * any(top - 3 <= y <= bottom + 3 for y in near)
    return found + sum(top < other < bottom for other in others)
