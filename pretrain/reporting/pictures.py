"""Pictures of a view as PNG and SVG, drawn by matplotlib where it is installed.

The ground is transparent and letters are of a grey that stands out from white and from black, so that a picture can be
read on both. Colours are those of cividis (https://doi.org/10.1371/journal.pone.0199239) and of Okabe and Ito, which
colour-blind people tell apart.
"""

import importlib.util
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.inspection.view import Bars, Curves, HeatMap, Page, Picture, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#7d7d7d"  # 4.1 to 1 against white, 5.1 to 1 against black
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = "os^Dvp"
# Japanese ones behind the first, as far as they are installed; what none has is drawn as a box.
FONTS = [
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
    "VL Gothic",
    "Hiragino Sans",
    "Yu Gothic",
    "MS Gothic",
]
DOTS = 160  # an inch, of a PNG
CELL = 0.24  # inches, of a heat map with labels
MOST_LABELS = 64  # of a side of a heat map
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def drawable() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(picture: Picture, stem: Path) -> list[Path]:
    """Write a picture as STEM.png and STEM.svg, and return their paths."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    fonts = [name for name in FONTS if name in fontManager.get_font_names()]
    style: dict[Any, Any] = {
        "font.family": [*fonts, "sans-serif"],
        "font.sans-serif": fonts or ["DejaVu Sans"],
        "font.size": 9,
        "svg.fonttype": "none",  # letters stay text, so that who looks at it needs the font, not who draws it
        "svg.hashsalt": "pretrain",  # the same picture has the same bytes
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "savefig.transparent": True,
    }
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor"), GREY)
    style |= dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), GREY)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(layout="constrained")
        _FORMS[type(picture)](figure, picture)
        for path in paths:
            metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=DOTS, metadata=metadata)
    return paths


def _heat_map(figure: "Figure", picture: HeatMap) -> None:
    rows, columns = picture.values.shape
    cell = max(CELL, 3.0 / max(rows, columns)) if max(rows, columns) <= MOST_LABELS else 6.0 / max(rows, columns)
    figure.set_size_inches(cell * columns + 2.4, cell * rows + 1.6)
    axes = figure.subplots()
    image = _cells(axes, picture)
    axes.set_title(_plain(picture.title), loc="left")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    if max(rows, columns) <= MOST_LABELS:
        _labels(axes, picture)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)


def _page(figure: "Figure", picture: Page) -> None:
    across = min(picture.across, len(picture.maps))
    down = -(-len(picture.maps) // across)
    tall, wide = np.max([each.values.shape for each in picture.maps], axis=0).tolist()
    beside, above = max(1, wide // 12), max(1, tall // 5)  # cells between maps; the title is above
    figure.set_size_inches(1.25 * across + 0.3, 1.4 * down + 0.6)
    axes = figure.subplots()
    # One image with all of them: hundreds would take long.
    whole = np.zeros((down * (tall + above), across * (wide + beside)))
    edges: list[tuple[float, float]] = []
    for place, each in enumerate(picture.maps):
        top, left = above + (tall + above) * (place // across), (wide + beside) * (place % across)
        rows, columns = each.values.shape
        whole[top : top + rows, left : left + columns] = each.values
        bottom, right, up, begin = top + rows - 0.5, left + columns - 0.5, top - 0.5, left - 0.5
        edges += [(begin, up), (begin, bottom), (right, bottom), (np.nan, np.nan)]
        axes.text((begin + right) / 2, up, _plain(each.title), fontsize=7, ha="center", va="bottom")
    _cells(axes, HeatMap("", whole))
    axes.plot(*np.array(edges).T, color=GREY, linewidth=0.8)
    axes.set_axis_off()
    figure.suptitle(_plain(picture.title), fontsize=10)


def _points(figure: "Figure", picture: Points) -> None:
    figure.set_size_inches(9, 7)
    axes = figure.subplots()
    x, y = picture.places[:, 0], picture.places[:, 1]
    axes.scatter(x, y, s=7, color=COLOURS[0], linewidths=0)
    axes.set_title(_plain(picture.title), loc="left")
    axes.set_xlabel(picture.axes[0])
    axes.set_ylabel(picture.axes[1])
    axes.margins(0.06)
    figure.draw_without_rendering()  # so that places on the page are known
    taken: list[Any] = []
    for place, label in zip(picture.places, picture.labels, strict=True):
        text = axes.annotate(_plain(label), tuple(place), (3, 2), textcoords="offset points", fontsize=8)
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _curves(figure: "Figure", picture: Curves) -> None:
    figure.set_size_inches(6.4, 4)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    for (name, values), colour, marker in zip(picture.lines.items(), COLOURS, MARKERS, strict=False):
        axes.plot(picture.places, values, marker=marker, markersize=5, color=colour, label=name)
    axes.set_xticks(list(picture.places), [f"{place:g}" for place in picture.places])
    axes.set_ylim(bottom=0)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_title(_plain(picture.title), loc="left")
    axes.set_xlabel(picture.axes[0])
    axes.set_ylabel(picture.axes[1])
    axes.legend()


def _bars(figure: "Figure", picture: Bars) -> None:
    height = sum(len(group.rows) + 1.6 for group in picture.groups)
    figure.set_size_inches(1.5 * len(picture.columns) + 1.6, 0.2 * height + 0.9)
    axes = figure.subplots()
    columns = 1.15 * np.arange(len(picture.columns))  # where each begins; a bar of 1 is one wide
    top = 0.0
    places: list[float] = []
    labels: list[str] = []
    for group in picture.groups:
        axes.text(0, top, _plain(group.title), fontsize=8, va="center")
        rows = top + 1 + np.arange(len(group.rows))
        colours = [COLOURS[1] if row == group.marked else COLOURS[0] for row in range(len(group.rows))]
        for begin, values in zip(columns, group.values.T, strict=True):
            axes.barh(rows, values, left=begin, height=0.8, color=colours)
        axes.vlines(columns, top + 0.5, rows[-1] + 0.5, color=GREY, linewidth=0.6)
        places += rows.tolist()
        labels += group.rows
        top = rows[-1] + 1.6
    axes.set_yticks(places, [_plain(label) for label in labels])
    axes.set_ylim(top - 0.8, -0.8)
    axes.set_xticks(columns + 0.5, [_plain(name) for name in picture.columns])
    axes.xaxis.tick_top()
    axes.set_xlim(-0.02, columns[-1] + 1)
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_plain(picture.title), loc="left")


_FORMS: dict[type, Callable[..., None]] = {
    HeatMap: _heat_map,
    Page: _page,
    Points: _points,
    Curves: _curves,
    Bars: _bars,
}


def _cells(axes: "Axes", picture: HeatMap) -> Any:
    """The cells; what is exactly 0 is left to the ground.

    Colours go by the root, for most weights are small.
    """
    from matplotlib.colors import PowerNorm

    values = np.ma.masked_equal(picture.values, 0)
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    return axes.imshow(values, cmap="cividis", norm=norm, interpolation="nearest", aspect="equal")


def _labels(axes: "Axes", picture: HeatMap) -> None:
    for names, put in ((picture.columns, axes.set_xticks), (picture.rows, axes.set_yticks)):
        put(range(len(names)), [_plain(name) for name in names])
    axes.tick_params(length=0, labelsize=8)
    axes.tick_params(axis="x", rotation=90)


def _plain(text: str) -> str:
    """Text that matplotlib and SVG take as it is: a dollar sign would begin a formula, and XML has no control signs."""
    return _CONTROL.sub("\ufffd", text).replace("$", r"\$")
