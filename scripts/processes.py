"""What a benchmark sees of the processes that it starts: their memory, all together (Linux)."""

import threading
import time
from pathlib import Path


class Peak:
    """The highest sum of proportional set sizes of a process and its children, sampled every 0.1 s."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while Path(f"/proc/{self._pid}").exists():
            self.bytes = max(self.bytes, sum(map(memory, family(self._pid))))
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def memory(pid: int) -> int:
    """Proportional set size in bytes: shared pages count by their share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
