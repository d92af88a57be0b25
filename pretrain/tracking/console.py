"""What a person sees while a command works: progress on stderr, so that stdout holds results alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LONG_STEP = 15  # seconds from which the first step alone tells how long a run takes
ENOUGH = 3  # seconds of later steps that tell it else

console = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One line of news."""
    console.print(line, markup=False, soft_wrap=True)


def warn(line: str) -> None:
    """One line that the user should not miss."""
    console.print(f"warning: {line}", markup=False, style="yellow", soft_wrap=True)


class ConsoleTracker:
    """One line for every evaluation."""

    def log(self, row: dict[str, Any]) -> None:
        if "val/loss" in row:
            loss, perplexity, bits = (row[f"val/{name}"] for name in ("loss", "perplexity", "bits_per_byte"))
            say(
                f"step {row['step']:,}, {duration(row['seconds'])}: validation loss {loss:.4f}, "
                f"perplexity {perplexity:,.2f}, {bits:.4f} bits per byte"
            )

    def close(self) -> None:
        pass


@contextmanager
def training_progress(done: float) -> Iterator[Callable[[float, str], None]]:
    """A bar for a run of which the share `done` is there already.

    Yields:
        what shows the share that is done now, and a short note; after the first steps it tells how long the run takes.
    """
    with progress() as bars:
        move = bars("training", 1000)
        move(int(1000 * done), "")
        shown, since, told = done, (time.perf_counter(), done), False
        first = True

        def show(share: float, note: str) -> None:
            nonlocal shown, since, told, first
            now = time.perf_counter()
            if not told and share < 1 and now - since[0] > (LONG_STEP if first else ENOUGH):
                left = (now - since[0]) * (1 - share) / (share - since[1])
                say(f"about {duration(left)} to go at this speed")
                told = True
            if first:  # it warms up: unless it is long, it says nothing of the others
                since, first = (now, share), False
            move(int(1000 * share) - int(1000 * shown), note)
            shown = share

        yield show


def duration(seconds: float) -> str:
    """42 s, 3 min 10 s, 5 h 12 min or 12.3 days."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:,.1f} days"


@contextmanager
def progress() -> Iterator[Callable[[str, int], Callable[[int, str], None]]]:
    """Bars with elapsed and remaining time.

    Yields:
        a function that adds a bar (description, total) and returns how to move it (by how much, what to say beside it).
    """
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:

        def bar(description: str, total: int) -> Callable[[int, str], None]:
            task = bars.add_task(description, total=max(total, 1), note="", visible=False, start=False)

            def advance(amount: int, note: str = "") -> None:
                bars.start_task(task)  # work that is found done never shows
                bars.update(task, advance=amount, note=note, visible=True)

            return advance

        yield bar
