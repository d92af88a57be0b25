"""What a benchmark sees of the processes that it starts: their memory, all together (Linux)."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """What a process and its children held at one moment, in bytes (proportional set sizes).

    Attributes:
        first: the process itself.
        others: its children, and theirs, the largest first.
        of_files: pages of files among all of it, such as programs, libraries and memory maps.
    """

    first: int
    others: tuple[int, ...]
    of_files: int

    @property
    def bytes(self) -> int:
        return self.first + sum(self.others)


class Peak:
    """The most that a process and its children hold together, sampled every 0.1 s until the process ends.

    Args:
        phase: tells what the process is at.
    Attributes:
        by_phase: the most in each phase, in their order.
    """

    def __init__(self, pid: int, phase: Callable[[], str] = lambda: "") -> None:
        self.by_phase: dict[str, Held] = {}
        self._pid = pid
        self._phase = phase
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def bytes(self) -> int:
        """The highest sum of all."""
        return max((held.bytes for held in self.by_phase.values()), default=0)

    def _watch(self) -> None:
        while Path(f"/proc/{self._pid}").exists():
            phase, held = self._phase(), held_by(family(self._pid))
            if phase not in self.by_phase or held.bytes > self.by_phase[phase].bytes:
                self.by_phase[phase] = held
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """A process and all that it started, itself first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def held_by(processes: list[int]) -> Held:
    """What `processes` hold now; one that is gone holds nothing."""
    sizes = [_sizes(pid) for pid in processes] or [{}]
    first, *others = [size.get("Pss", 0) for size in sizes]
    return Held(first, tuple(sorted(others, reverse=True)), sum(size.get("Pss_File", 0) for size in sizes))


def _sizes(pid: int) -> dict[str, int]:
    """The lines of smaps_rollup in bytes, by name: Pss, in which shared pages count by their share, and its parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
