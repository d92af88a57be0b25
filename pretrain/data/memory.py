"""How much memory this process held at its peak, since a moment of one's choice where the system allows it; and
giving back what it no longer needs.
"""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import pyarrow as pa

CLEAR_REFS = Path("/proc/self/clear_refs")  # proc(5): writing 5 resets the peak to what is held now
STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Let the peak begin anew (Linux; elsewhere it counts from the start of the process)."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")


def peak_memory() -> int:
    """The largest resident set since the last reset, in bytes."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def release_memory() -> None:
    """Give freed memory back to the system, so that a worker between two shards holds little."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
