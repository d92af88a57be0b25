"""Round numbers on an axis, and curves of as many points as one sees."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.reporting.axes import Gapped, round_ticks, round_ticks_of_powers, short, smoothed, thinned

VALUES = st.lists(st.one_of(st.none(), st.floats(-100, 100)), max_size=80)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 8))
def test_ticks_are_round_inside_and_few(low: float, span: float, most: int) -> None:
    ticks = round_ticks(low, low + span, most)
    assert 1 <= len(ticks) <= most
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks) or span < 1e-6 * abs(low)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 409_600, [0, 1e5, 2e5, 3e5, 4e5]), (3.2, 8.5, [4, 5, 6, 7, 8]), (0, 0.0022, [0, 5e-4, 1e-3, 1.5e-3, 2e-3])],
)
def test_ticks_are_those_that_a_person_would_choose(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high, 5) == ticks


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e9), st.integers(3, 8))
def test_ticks_of_a_logarithmic_axis_are_inside_and_few(low: float, factor: float, most: int) -> None:
    high = low * factor
    ticks = round_ticks_of_powers(low, high, most)
    assert 1 <= len(ticks) <= most
    assert ticks == [low] or all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_ticks_over_many_powers_are_powers() -> None:
    assert round_ticks_of_powers(1e-5, 1e4, 5) == [1e-5, 1e-3, 1e-1, 1e1, 1e3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (200, "200"), (1500, "1.5k"), (4e6, "4M"), (0.003, "0.003"), (6e-5, "6e-5"), (-2e3, "-2k")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def gapped(values: list[float | None]) -> list[Gapped]:
    return [(float(place), value) for place, value in enumerate(values)]


@given(VALUES, st.integers(1, 30))
def test_smoothing_keeps_gaps_and_places_and_stays_between_the_extremes(
    values: list[float | None], window: int
) -> None:
    points = gapped(values)
    result = smoothed(points, window)
    assert [place for place, _ in result] == [place for place, _ in points]
    assert [value is None for _, value in result] == [value is None for value in values]
    known = [value for value in values if value is not None]
    assert all(min(known) - 1e-9 <= value <= max(known) + 1e-9 for _, value in result if value is not None)


def test_smoothing_does_not_bend_a_slope_or_shift_it() -> None:
    points = gapped([3.0 * place for place in range(50)])
    result = smoothed(points, 11)
    assert [value for _, value in result[2:-2]] == pytest.approx([value for _, value in points[2:-2]])


def test_smoothing_takes_most_of_the_noise_away_at_the_ends_too() -> None:
    values = [value for _, value in smoothed(gapped([(-1.0) ** place for place in range(200)]), 40)]
    assert max(abs(value) for value in values if value is not None) < 0.2


@given(VALUES, st.integers(1, 20))
def test_thinning_leaves_few_points_and_no_gap_is_bridged(values: list[float | None], most: int) -> None:
    points = gapped(values)
    result = thinned(points, most)
    changes = sum((a is None) != (b is None) for a, b in pairwise(values))
    assert len(result) <= most + changes + 1
    assert sum((a is None) != (b is None) for (_, a), (_, b) in pairwise(result)) == changes
    assert result[-1:] == [] or result[-1][0] == points[-1][0]
