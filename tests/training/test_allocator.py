"""Freed memory is kept: the second allocation of a large tensor costs no page faults."""

import ctypes
import subprocess
import sys

import pytest

HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
PROGRAM = """
import resource, torch
from pretrain.training.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2): torch.zeros(2**24)
before = faults()
for _ in range(5): torch.zeros(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="there is no glibc here, and the function does nothing")
def test_large_blocks_are_not_given_back_to_the_kernel() -> None:
    def faults(keep: bool) -> int:
        program = PROGRAM.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    kept, given_back = faults(True), faults(False)
    assert kept < 100 < given_back
