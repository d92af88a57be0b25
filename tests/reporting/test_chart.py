"""Curves as SVG: where they lie, and where their labels do."""

import re
import xml.etree.ElementTree as ET

import pytest

from pretrain.reporting.chart import Curve, chart

FALLING = Curve("loss", [(float(x), 8 - x / 20) for x in range(1, 101)])


def path_heights(text: str) -> list[float]:
    """Pixels from above of every place of the curves."""
    return [float(y) for path in re.findall(r' d="([^"]+)"', text) for y in re.findall(r"[ML][\d.-]+ ([\d.-]+)", path)]


def labels(text: str) -> dict[str, tuple[bool, float]]:
    """Text of each label to whether it stands at the right side, and its pixels from above."""
    found = [element for element in ET.fromstring(text).iter("text") if element.get("class") == "label"]
    return {str(one.text): (one.get("text-anchor") == "end", float(one.get("y", "nan"))) for one in found}


def test_lower_values_lie_lower_and_a_chart_is_well_formed() -> None:
    heights = path_heights(chart("a <b> & c", [FALLING], "tokens"))
    assert heights == sorted(heights)
    assert ET.fromstring(chart("a <b> & c", [FALLING], "tokens")).findtext("h3") == "a <b> & c"


@pytest.mark.parametrize("levels", [{"a": 5.0, "b": 5.05}, {"a": 5.0, "b": 5.05, "c": 5.1}, {"a": 3.0, "b": 3.02}])
def test_labels_of_levels_that_lie_close_stand_apart(levels: dict[str, float]) -> None:
    places = list(labels(chart("x", [FALLING], "tokens", levels=levels)).values())
    assert len(places) == len(levels)
    for number, (side, y) in enumerate(places):
        assert all(side != there or abs(y - other) >= 12 for there, other in places[number + 1 :])


def test_a_label_stands_where_the_curve_is_not() -> None:
    placed = labels(chart("x", [FALLING], "tokens", levels={"high": 7.8, "low": 3.2}))
    assert placed["high · 7.80"][0]  # on the right, for the curve begins high
    assert not placed["low · 3.20"][0]


def test_one_spike_does_not_flatten_the_curve() -> None:
    spike = Curve("loss", [*FALLING.points[:50], (50.5, 5000.0), *FALLING.points[50:]])
    assert max(path_heights(chart("x", [spike], "tokens"))) - path_heights(chart("x", [spike], "tokens"))[0] > 60


def test_what_has_no_place_on_a_logarithmic_axis_is_a_gap() -> None:
    text = chart("x", [Curve("norm", [(1.0, 1.0), (2.0, 0.0), (3.0, 100.0), (4.0, None), (5.0, 10.0)])], "tokens")
    assert text.count("M") == 2
    text = chart("x", [Curve("norm", [(1.0, 1.0), (2.0, 0.0), (3.0, 100.0)])], "tokens", logarithmic=True)
    assert len(re.findall(r'd="M[^L]+M[^L]+"', text)) == 1


def test_a_chart_without_any_value_is_nothing() -> None:
    assert chart("x", [Curve("a", [(1.0, None)]), Curve("b", [])], "tokens", levels={"c": 1.0}) == ""


@pytest.mark.parametrize(
    ("value", "from_zero", "logarithmic"),
    [(0.0, False, False), (-3.0, False, False), (1e-30, True, False), (7.0, True, False), (7.0, False, True)],
)
def test_a_curve_of_one_value_over_and_over_has_a_frame(value: float, from_zero: bool, logarithmic: bool) -> None:
    curve = Curve("a", [(0.0, value), (0.0, value)])
    text = chart("x", [curve], "seconds", from_zero=from_zero, logarithmic=logarithmic)
    assert path_heights(text)
    assert all(0 <= height <= 180 for height in path_heights(text))
