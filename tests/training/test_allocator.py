"""Freed memory is kept: going on with what was there costs few page faults."""

import ctypes
import subprocess
import sys

import pytest

HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
PROGRAM = """
import resource, torch
from pretrain.models.mlp import MLP
from pretrain.training.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
model = MLP(4096, context_length=1, n_embd=64, n_hidden=256)
tokens = torch.randint(0, 4096, (4, 257))
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with torch.inference_mode():
    for step in range(8):
        before = faults()
        model.token_losses(tokens[:, :-1], tokens[:, 1:])
print(faults() - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="there is no glibc here, and the function does nothing")
def test_a_step_with_kept_memory_costs_a_fraction_of_the_page_faults() -> None:
    def faults(keep: bool) -> int:
        program = PROGRAM.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    assert faults(True) * 4 < faults(False)
