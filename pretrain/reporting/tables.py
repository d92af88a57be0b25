"""Tables of results on stdout, and numbers as people read them."""

import re
from collections.abc import Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

BETWEEN = 2  # characters between two columns
NUMBER = re.compile(
    r"(?:[<>] )?[-+]?\d|–$|inf$|$"
)  # how a cell begins that is one, with or without a unit, or is empty
WIDTH_OF_FILES = 140  # characters, where the table goes to a file or a pipe


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], spare: Sequence[str] = ()
) -> None:
    """Print a table; columns of numbers stand to the right, the others to the left. Plain cells are shown as they are.

    Args:
        columns: their headings; a line break in one is kept.
        spare: columns that are left out, the first ones first, where the terminal is too narrow for all; those that
            still fit then come back, the last ones first.
    """
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_FILES)
    shown, left = list(range(len(columns))), list(spare)
    while left and _width(columns, cells, shown) > console.width:
        shown.remove(columns.index(left.pop(0)))
    for name in reversed(spare[: len(spare) - len(left)]):
        more = sorted([*shown, columns.index(name)])
        if _width(columns, cells, more) <= console.width:
            shown = more
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for place in shown:
        numbers = place > 0 and all(NUMBER.match(row[place].plain) for row in cells)
        side: Literal["left", "right"] = "right" if numbers else "left"
        table.add_column(columns[place], justify=side, no_wrap=numbers, overflow="fold")
    for row in cells:
        table.add_row(*(row[place] for place in shown))
    console.print(table)


def _width(columns: Sequence[str], cells: Sequence[Sequence[Text]], shown: Sequence[int]) -> int:
    """Characters of the widest line, with what stands between the columns."""
    widest = [
        max(
            [
                cell_len(line)
                for cell in (columns[place], *(row[place].plain for row in cells))
                for line in cell.split("\n")
            ]
        )
        for place in shown
    ]
    return sum(widest) + BETWEEN * (len(shown) - 1) + 1


def decimal(value: float | None, places: int = 4, *, score: bool = False) -> str:
    """A fixed number of places; inf where there is no finite value, and a dash for a score, which is no probability."""
    if value is None:
        return "–" if score else "inf"
    return f"{value:,.{places}f}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def byte_size(size: float) -> str:
    """Bytes in the unit that suits them: 1.2 GB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.{0 if size >= 100 * unit else 1}f} {name}"
    return f"{size:,.0f} B"


def share(part: float, whole: float = 1) -> str:
    """`part` of `whole` in per cent; what is not quite all never shows as 100 %, nor what is not nothing as 0 %."""
    if not whole:
        return "–"
    fraction = part / whole
    if 0 < abs(fraction - round(fraction)) < 0.0005:
        return "< 0.1 %" if fraction < 0.5 else f"{'> 99.9' if fraction < 1 else f'{fraction:.1%}'[:-1]} %"
    return f"{100 * fraction:.1f} %"
