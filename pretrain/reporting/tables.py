"""Tables of results on stdout, and numbers as people read them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDTH_OF_FILES = 140  # characters, where the table goes to a file or a pipe


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers and stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_FILES)
    console.print(table)


def decimal(value: float | None, places: int = 4) -> str:
    """A fixed number of places; inf where there is no finite value."""
    return "inf" if value is None else f"{value:,.{places}f}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
