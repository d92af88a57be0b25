"""Pictures: both files are written, cells that are empty stay so, and text of any kind is drawn without a warning."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pretrain.inspection.view import Curves, HeatMap, Page, Picture, Points
from pretrain.reporting.pictures import draw, drawable

pytestmark = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")

LABELS = ["␣the", "吾輩", "⏎", "$x_1$", "a_b^{", "\x00", "�", "\\alpha"]
TRIANGLE = np.tril(np.full((8, 8), 0.25))
PICTURES: dict[str, Picture] = {
    "heat map": HeatMap("A $ title_", TRIANGLE, LABELS, LABELS),
    "heat map without labels": HeatMap("large", np.tril(np.ones((100, 100))), ["x"] * 100, ["x"] * 100),
    "heat map of one cell": HeatMap("one", np.ones((1, 1)), ["a"], ["a"]),
    "page": Page("all $", [HeatMap(f"{i}", TRIANGLE) for i in range(5)], 3),
    "page of one": Page("one", [HeatMap("0", TRIANGLE)], 12),
    "points": Points("plane", np.arange(16.0).reshape(8, 2), LABELS, ("x", "y")),
    "points on each other": Points("plane", np.zeros((8, 2)), LABELS, ("x", "y")),
    "curves": Curves("lines", ("width", "nats"), [1, 2, 4], {"a": [1, 2, 3], "b": [3, 2, 1]}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_written_as_png_and_svg(name: str, tmp_path: Path) -> None:
    png, svg = draw(PICTURES[name], tmp_path / "new" / "a.b")
    assert (png.name, svg.name) == ("a.b.png", "a.b.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(svg)


def test_letters_of_an_svg_stay_text_which_needs_no_font_where_it_is_drawn(tmp_path: Path) -> None:
    _, svg = draw(PICTURES["heat map"], tmp_path / "map")
    shown = {element.text for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"␣the", "吾輩", "$x_1$", "a_b^{", "\ufffd"} <= shown


def test_the_ground_and_empty_cells_are_transparent_and_others_are_not(tmp_path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(draw(PICTURES["page of one"], tmp_path / "page")[0])
    assert pixels.shape[2] == 4
    assert (pixels[..., 3] == 0).mean() > 0.4
    opaque = pixels[pixels[..., 3] == 1]
    assert len(opaque) > 0.2 * pixels.shape[0] * pixels.shape[1]
    assert draw(PICTURES["heat map"], tmp_path / "map")


def test_the_same_picture_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = (draw(PICTURES["points"], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_labels_that_would_lie_on_each_other_are_left_out(tmp_path: Path) -> None:
    apart, together = (
        draw(Points("", places, ["label"] * 5, ("", "")), tmp_path / f"{len(places[0])}{i}")[1].stat().st_size
        for i, places in enumerate((np.arange(10.0).reshape(5, 2), np.zeros((5, 2))))
    )
    assert together < apart


def test_without_matplotlib_nothing_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawable()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not drawable()
