"""Run folders: finding them, locking them, and telling their state."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.errors import LockedError, UsageError

LOCK = ".lock"
SWEEP = "sweep.json"  # in the folder of a sweep: the results of its runs, in their order


def find_run(name: str, runs_dir: Path) -> Path:
    """The folder of a run: `latest` (the newest with a checkpoint), a name under `runs_dir`, or a path.

    Raises:
        UsageError: there is no such run.
    """
    if name == "latest":
        runs = [folder for folder in all_runs(runs_dir) if (folder / "latest").is_file()]
        if not runs:
            raise UsageError(f"no run with a checkpoint in {runs_dir}; train one first: pretrain train")
        return max(runs, key=lambda folder: (folder / "latest").stat().st_mtime_ns)
    for folder in (runs_dir / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder
    names = [str(folder.relative_to(runs_dir)) for folder in all_runs(runs_dir)]
    there = f"; there are {', '.join(sorted(names)[:8])}" if names else ""
    raise UsageError(f"no run {name} in {runs_dir}{there}")


def all_runs(runs_dir: Path) -> list[Path]:
    """The folders of all runs, those inside sweeps included."""
    return [file.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for file in runs_dir.glob(pattern)]


def runs_of_sweep(folder: Path) -> list[Path]:
    """The folders of a sweep's runs: in the order of its jobs, then those that have no result yet."""
    names = [Path(result["run"]).name for result in json.loads((folder / SWEEP).read_text("utf-8"))]
    found = sorted(file.parent for file in folder.glob("*/config.yaml"))
    places = {name: place for place, name in enumerate(names)}
    return sorted(found, key=lambda run: places.get(run.name, len(places)))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's lock.

    Raises:
        LockedError: another process holds it.
    """
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(f"another process ({file.read().strip()}) works on {folder}") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process works on the run."""
    try:
        with (folder / LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_result(folder: Path) -> dict[str, Any] | None:
    """What the finished run printed, or None where it is not finished."""
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return result
