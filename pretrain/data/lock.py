"""One build at a time in a data folder."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def alone(folder: Path, idle: Callable[[], None], waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a data folder; while another process holds it, wait, for it may build just what is needed.

    Args:
        idle: called while it waits; it may raise.
        waiting: told once for whom it waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    file.seek(0)
                    waiting(f"{folder} is being built by another process ({file.read().strip()}); waiting for it")
                    told = True
                idle()
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield
