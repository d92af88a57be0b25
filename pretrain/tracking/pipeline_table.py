"""The live table of a data build on stderr: a row a stage, with what it kept, how fast it is, and how long it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.live import Live
from rich.table import Table

from pretrain.tracking.console import console, duration, say

COLUMNS = ("stage", "done", "documents", "kept", "text", "MB/s", "elapsed", "left")


class Record(Protocol):
    """What is known of a finished shard."""

    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int


@dataclass
class _Row:
    name: str
    weight: int
    started: float = field(default_factory=time.perf_counter)
    ended: float | None = None
    working: bool = False  # what is told before comes from an earlier build
    found: int = 0  # bytes that an earlier build had done
    done: int = 0
    documents_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0

    def cells(self) -> list[str]:
        now = self.ended or time.perf_counter()
        seconds = now - self.started
        fresh = self.done - self.found
        speed = fresh / seconds if seconds else 0.0
        left = "" if self.ended else duration((self.weight - self.done) / speed) if speed else "?"
        counts = ["", "", ""]
        if self.documents_in:
            kept = f"{self.documents_out / self.documents_in:.1%}"
            counts = [f"{self.documents_out:,}", kept, f"{self.bytes_out / 1e6:,.1f} MB"]
        share = f"{self.done / self.weight:.0%}" if self.weight else "100%"
        return [self.name, share, *counts, f"{speed / 1e6:,.1f}", duration(seconds), left]


class PipelineTable:
    """Rows appear as stages begin; what was found finished has none. Without a terminal, a line a stage at its end.

    Args:
        idle: called all the time while work goes on; it may raise.
    """

    def __init__(self, idle: Any) -> None:
        self._idle = idle
        self._rows: list[_Row] = []
        self._live: Live | None = None

    def begin(self, name: str, weight: int) -> None:
        self._end()
        self._rows.append(_Row(name, weight))
        if console.is_terminal and self._live is None:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)
            self._live.start()

    def done(self, name: str, weight: int, records: Sequence[Record]) -> None:
        row = self._rows[-1]
        if not row.working:
            row.found += weight
        row.done += weight
        for record in records:
            row.documents_in += record.documents_in
            row.documents_out += record.documents_out
            row.bytes_out += record.bytes_out

    def idle(self) -> None:
        """Look whether the program is to stop; work has begun when this is called."""
        if self._rows:
            self._rows[-1].working = True
        self._idle()

    def close(self) -> None:
        """End the table; what it told last stays on the screen."""
        self._end()
        if self._live:
            self._live.stop()
            console.print(self._table())
            self._live = None

    def _end(self) -> None:
        if not self._rows or self._rows[-1].ended:
            return
        row = self._rows[-1]
        row.ended = time.perf_counter()
        if not self._live:
            say("  ".join(f"{cell}" for cell in row.cells() if cell))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
        for row in self._rows:
            table.add_row(*row.cells())
        return table
