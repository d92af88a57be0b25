"""What a machine offers to a training: memory and speed, by its maker's data sheet or measured here."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval

SIDE = 1536  # of the square matrices whose product is timed
COPIED = 2**26  # bytes whose copy is timed
SECONDS = 0.4  # of each of the two measurements


class Hardware:
    """One device of a machine; the CPU with all its cores is one. What is null is measured on this machine.

    Args:
        device: what PyTorch calls its kind.
        memory_bytes: that it has.
        flops_per_second: of dense products of matrices in bf16, in fp32 where it is measured on a CPU without bf16.
        bytes_per_second: that it reads from its memory, or writes to it.
        mfu: share of flops_per_second that a training reaches, by which time is planned.
        context_bytes: memory that driver, libraries and Python take before a tensor is made.
        names: by which PyTorch knows it.
    """

    def __init__(
        self,
        *,
        device: Literal["cpu", "cuda", "mps"],
        memory_bytes: Annotated[int, Ge(1)] | None,
        flops_per_second: Annotated[float, Gt(0)] | None,
        bytes_per_second: Annotated[float, Gt(0)] | None,
        mfu: Annotated[float, Interval(gt=0, le=1)],
        context_bytes: Annotated[int, Ge(0)] | None,
        names: list[str],
    ) -> None:
        self.device: Literal["cpu", "cuda", "mps"] = device
        self.memory_bytes = memory_bytes or machine_memory()
        self.flops_per_second = flops_per_second
        self.bytes_per_second = bytes_per_second
        self.mfu = mfu
        self.context_bytes = private_memory() if context_bytes is None else context_bytes
        self.names = names

    def speed(self, dtype: torch.dtype) -> float:
        """FLOP/s of products in `dtype`."""
        return self.flops_per_second or measured_flops(dtype)

    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bytes_per_second or measured_bandwidth()


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process may not leave."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or `max`
            most = min(most, int(Path(limit).read_text()))
    return most


def available_memory() -> int:
    """Bytes that a process may take now without another's being swapped out; where that is not told, all there are."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(machine_memory(), 1024 * int(line.split()[1]))
    return machine_memory()


def private_memory() -> int:
    """Bytes that only this process holds: without pages of files, such as libraries; 0 where that is not told."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])
    return 0


def measured_flops(dtype: torch.dtype) -> float:
    """FLOP/s of a product of two large matrices on this CPU: the best of those that half a second has room for."""
    left, right = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    return 2 * SIDE**3 / _best_seconds(lambda: left @ right)


def measured_bandwidth() -> float:
    """Bytes a second that this CPU reads or writes: the best of several copies."""
    source, target = (torch.zeros(COPIED, dtype=torch.uint8) for _ in range(2))
    return 2 * COPIED / _best_seconds(lambda: target.copy_(source))


def _best_seconds(work: Callable[[], object]) -> float:
    best, end = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
