"""The picture of a run."""

import xml.etree.ElementTree as ET

from pretrain.reporting.loss_curve import loss_curve

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [{"tokens": 100 * step, "train/loss": 8.0 - step / 10} for step in range(1, 41)]
ROWS += [{"tokens": 2000, "val/loss": 6.5}, {"tokens": 4000, "val/loss": 4.5}]


def points(picture: ET.Element, name: str) -> list[tuple[float, float]]:
    [line] = [line for line in picture.iter(f"{SVG}polyline") if line.get("class") == name]
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.get("points", "").split())]


def test_lower_losses_lie_lower_and_later_tokens_further_right() -> None:
    picture = ET.fromstring(loss_curve(ROWS, {"bigram": 5.0}, "a run <1>"))
    train = points(picture, "train")
    assert train == sorted(train)
    assert [y for _, y in train] == sorted(y for _, y in train)
    assert len(points(picture, "validation")) == len(list(picture.iter(f"{SVG}circle"))) == 2
    [reference] = [line for line in picture.iter(f"{SVG}line") if line.get("class") == "reference"]
    first, last = (y for _, y in points(picture, "validation"))
    assert first < float(reference.get("y1", "nan")) < last


def test_every_reference_is_named_and_special_characters_are_safe() -> None:
    text = loss_curve(ROWS, {"bigram": 5.0, "uniform": 8.3}, "a <b> & c")
    labels = [element.text for element in ET.fromstring(text).iter(f"{SVG}text")]
    assert {"bigram 5.00", "uniform 8.30", "a <b> & c"} <= set(labels)


def test_a_run_without_metrics_is_an_empty_picture() -> None:
    assert ET.fromstring(loss_curve([], {}, "nothing")).tag == f"{SVG}svg"
