"""What a result may depend on besides settings and data."""

import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pretrain import __version__

PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


def environment() -> dict[str, Any]:
    """Versions, the commit of the checkout that one works in, hardware and threads."""
    commit = None
    with suppress(OSError):
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = answer.stdout.strip() or None
    libraries = ("torch", "numpy", "tokenizers", "pyarrow", "hydra-core", "rensa")
    return {
        "pretrain": __version__,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
        "git_commit": commit,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def memory_in_use() -> int:
    """Bytes that this process holds now: of the GPU where it works there, else of the machine's memory."""
    if torch.cuda.is_available() and (allocated := torch.cuda.memory_allocated()):
        return allocated
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # the peak
