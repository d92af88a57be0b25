"""`inspect scaling`: with 1/sqrt(d) the entropy is the same at every width, without it falls."""

import math
from typing import Any

import pytest

from pretrain.inspection.scaling import ScalingView, pictures, tables
from pretrain.inspection.view import Curves


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return ScalingView(max_width=256, keys=32, queries=256, seed=1)()


def test_only_with_scaling_the_entropy_does_not_depend_on_the_width(document: dict[str, Any]) -> None:
    scaled = [row["scaled"]["entropy"] for row in document["widths"]]
    unscaled = [row["unscaled"]["entropy"] for row in document["widths"]]
    assert max(scaled) - min(scaled) < 0.2
    # of products of unit variance ln S - 1/2 in the limit of many keys
    assert scaled[-1] == pytest.approx(math.log(32) - 0.5, abs=0.1)
    assert unscaled == sorted(unscaled, reverse=True)
    assert unscaled[-1] < 0.1 * document["uniform"]


def test_without_scaling_the_largest_weight_grows_and_the_gradient_vanishes(document: dict[str, Any]) -> None:
    last = document["widths"][-1]
    assert last["unscaled"]["largest"] > 0.85
    assert last["scaled"]["largest"] < 0.3
    assert last["unscaled"]["gradient"] < 0.25 * last["scaled"]["gradient"]


def test_a_width_of_one_differs_in_nothing() -> None:
    [row] = ScalingView(max_width=1, keys=8, queries=16, seed=0)()["widths"]
    assert row["scaled"] == row["unscaled"]


def test_the_same_seed_gives_the_same_figures(document: dict[str, Any]) -> None:
    assert ScalingView(max_width=256, keys=32, queries=256, seed=1)() == document
    assert ScalingView(max_width=256, keys=32, queries=256, seed=2)() != document


def test_table_and_picture_have_every_width(document: dict[str, Any]) -> None:
    [table] = tables(document)
    assert [row[0] for row in table.rows] == ["4", "8", "16", "32", "64", "128", "256"]
    [picture] = pictures(document).values()
    assert isinstance(picture, Curves)
    assert all(len(values) == 7 for values in picture.lines.values())


def test_the_command_needs_no_run(tmp_path: Any, inspect: Any) -> None:
    code, found, _ = inspect("scaling", "view.max_width=20", f"path={tmp_path}")
    assert code == 0
    assert [row["width"] for row in found["widths"]] == [5, 10, 20]
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.png", "scaling.svg"}
    code, _, said = inspect("scaling", "view.max_width=0")
    assert (code, said.count("\n")) == (2, 1)
