"""What a result may depend on besides settings and data."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch

from pretrain import __version__


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
