"""Tables of results on stdout, and numbers as people read them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OF_FILES = 140  # characters, where the table goes to a file or a pipe


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table; the first column is text, the others stand to the right. Plain cells are shown as they are."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_FILES)
    console.print(table)


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
