"""Axes of a plot: round numbers on them, numbers as short as they can be, and curves of as many points as one sees."""

import math
from collections.abc import Sequence
from itertools import accumulate, groupby

Point = tuple[float, float]
Gapped = tuple[float, float | None]  # a place, and a value or none

STEPS = (1.0, 2.0, 5.0)  # round numbers begin with one of them
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers from `low` to `high`, as far apart as the next ones."""
    if not high > low:
        return [low]
    power = math.floor(math.log10((high - low) / most))
    for step in (float(f"{lead}e{power + more}") for more in (0, 1) for lead in STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    raise AssertionError("ten times the width of a tick is wider than all of them")


def round_ticks_of_powers(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers for a logarithmic axis from `low` to `high`, both above 0: 1, 2, 5, 10 or powers of ten alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1.0, 2.0, 3.0, 5.0, 7.0), STEPS, (1.0, 3.0), (1.0,)):
        ticks = [float(f"{lead}e{power}") for power in powers for lead in leads]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= most:
            break
    return inside[:: -(-len(inside) // most)] if inside else [low]


def short(value: float) -> str:
    """200, 1.5k, 4M, 0.003 or 6e-5."""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    if value and abs(value) < 1e-3:
        mantissa, power = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:.4g}"


def thinned(points: Sequence[Gapped], most: int = 300) -> list[Gapped]:
    """At most about `most` points, each the mean of its neighbours at the last one's place; gaps stay gaps."""
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    groups: list[list[Gapped]] = [[]]
    for point in points:
        if groups[-1] and (len(groups[-1]) == size or (groups[-1][-1][1] is None) != (point[1] is None)):
            groups.append([])
        groups[-1].append(point)
    return [(group[-1][0], _mean([value for _, value in group if value is not None])) for group in groups]


def smoothed(points: Sequence[Gapped], window: int) -> list[Gapped]:
    """The mean of about `window` values around each place, fewer beside a gap and at the ends."""
    found: list[Gapped] = []
    for filled, run in groupby(points, key=lambda point: point[1] is not None):
        stretch = list(run)
        if not filled:
            found += stretch
            continue
        sums = list(accumulate((value for _, value in stretch if value is not None), initial=0.0))
        for place, (at, _) in enumerate(stretch):
            # As many on each side, or a slope would be bent; but at the ends no fewer than show more than noise.
            half = min(window // 2, max(place, window // 4), max(len(stretch) - 1 - place, window // 4))
            first, end = max(0, place - half), min(len(stretch), place + half + 1)
            found.append((at, (sums[end] - sums[first]) / (end - first)))
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
