"""What a person sees while a command works: progress on stderr, so that stdout holds results alone."""

from typing import Any

from rich.console import Console

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
                f"perplexity {perplexity:,.2f}" + ("" if bits is None else f", {bits:.4f} bits per byte")
            )

    def close(self) -> None:
        pass


def duration(seconds: float) -> str:
    """42 s, 3 min 10 s, 5 h 12 min or 12.3 days."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:,.1f} days"
