"""The live panel of a training on stderr: where the loss is between the references, how fast it goes, what is left."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pretrain.tracking.console import console, duration, say

SMOOTHED = 20  # steps whose mean is shown as training loss and speed
REFRESHES = 2  # a second; each costs a few milliseconds
LONG_STEP = 15  # seconds from which the first step alone tells how long a run takes
ENOUGH = 3  # seconds of later steps that tell it else

Show = Callable[[float, Mapping[str, Any]], None]


class TrainingPanel:
    """What is known of a run, drawn anew twice a second.

    Args:
        done: share of the run that is there already.
        references: losses on the same validation tokens by name, in nats per token.
    """

    def __init__(self, done: float, references: Mapping[str, float]) -> None:
        self.references = references
        self.done = done
        self.since = (time.perf_counter(), done)
        self.row: Mapping[str, Any] = {}
        self.validation: Mapping[str, Any] = {}
        self.losses: deque[float] = deque(maxlen=SMOOTHED)
        self.speeds: deque[float] = deque(maxlen=SMOOTHED)

    def take(self, done: float, row: Mapping[str, Any]) -> None:
        """A row of metrics, when the share `done` of the run is there."""
        self.done = done
        if "val/loss" in row:
            self.validation = row
        elif "rolled_back_over_batches" not in row:  # that row tells of no step
            self.row = row
            self.losses.append(row["train/loss"])
            self.speeds.append(row["tokens_per_second"])

    def left(self) -> float | None:
        """Seconds to go at the speed since the panel began, or None where nothing is known of it."""
        began, before = self.since
        if self.done <= before:
            return None
        return (time.perf_counter() - began) * (1 - self.done) / (self.done - before)

    def __rich__(self) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        left = self.left()
        bar.add_row(
            ProgressBar(1.0, self.done, width=30),
            f"{self.done:.0%}",
            "" if left is None else f"{duration(left)} left",
        )
        figures = Table.grid(padding=(0, 2))
        for label, value in self._figures():
            figures.add_row(Text(label, "dim"), value)
        return Panel(
            Group(bar, figures, self._ladder()), title="training", title_align="left", width=min(86, console.width)
        )

    def _figures(self) -> list[tuple[str, str]]:
        if not self.losses:
            return [("", "the first step is under way")]
        row, loss = self.row, sum(self.losses) / len(self.losses)
        parts = [f"{sum(self.speeds) / len(self.speeds):,.0f} tokens/s"]
        if row.get("mfu") is not None:
            parts.append(f"MFU {row['mfu']:.1%}")
        if row.get("memory_bytes"):
            parts.append(f"{row['memory_bytes'] / 1e9:.2f} GB")
        if row["skipped_steps"]:
            parts.append(f"{row['skipped_steps']} steps skipped")
        found = [
            ("step", f"{row['step']:,}, {row['tokens']:,} tokens, {duration(row['seconds'])}"),
            ("training", f"loss {loss:.4f}, {_perplexity(loss)} (mean of {len(self.losses)})"),
            ("speed", ", ".join(parts)),
        ]
        if row["lr"] is not None:
            found.append(("learning rate", f"{row['lr']:.3g}, gradient norm {row['grad_norm']:.3g}"))
        if self.validation:
            of = self.validation
            of_text = of["val/bits_per_byte"]
            bits = "" if of_text is None else f", {of_text:.4f} bits per byte"
            text = f"loss {of['val/loss']:.4f}, {_perplexity(of['val/loss'])}{bits} at step {of['step']:,}"
            found.insert(2, ("validation", text))
        return found

    def _ladder(self) -> Text:
        """The references from the worst to the best, and where the run stands among them."""
        steps = sorted(self.references.items(), key=lambda item: -item[1])
        loss = self.validation.get("val/loss") or (sum(self.losses) / len(self.losses) if self.losses else None)
        line, shown = Text(), loss is None
        for name, reference in steps:
            if not shown and loss is not None and loss > reference:
                line.append(f"this run {loss:.2f}", "bold green").append(" > ")
                shown = True
            line.append(f"{name} {reference:.2f}", "dim").append(" > ")
        if not shown and loss is not None:
            line.append(f"this run {loss:.2f}", "bold green")
        line.rstrip()
        if line.plain.endswith(" >"):
            line.right_crop(2)
        return line


@contextmanager
def training_panel(done: float, references: Mapping[str, float]) -> Iterator[Show]:
    """A panel where stderr is a terminal; else one line, after the first steps, that tells how long the run takes.

    Yields:
        what is told the share of the run that is done and a row of metrics, after each step and evaluation.
    """
    panel = TrainingPanel(done, references)
    told = not 0 <= done < 1
    first = True

    def show(share: float, row: Mapping[str, Any]) -> None:
        nonlocal told, first
        panel.take(share, row)
        if told or "val/loss" in row:
            return
        passed = time.perf_counter() - panel.since[0]
        left = panel.left()
        if left and share < 1 and passed > (LONG_STEP if first else ENOUGH):
            say(f"about {duration(left)} to go at this speed")
            told = True
        if first:  # it warms up: unless it is long, it says nothing of the others
            panel.since, first = (time.perf_counter(), share), False

    if not console.is_terminal:
        yield show
        return
    with Live(panel, console=console, refresh_per_second=REFRESHES, transient=True):
        yield show


def _perplexity(loss: float) -> str:
    return f"perplexity {math.exp(loss):,.2f}" if loss < 100 else "perplexity beyond 1e43"
