"""How long a user waits: for help, for a refusal, for data that is already built, and for the first training step.

Prints the median of several runs of each, in seconds of the whole process, beside a bare `import torch`.

    python scripts/bench_start.py [RUNS]
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PRETRAIN = [sys.executable, "-m", "pretrain"]
TINY = ["trainer.max_steps=1", "trainer.eval_tokens=1k", "sample.max_tokens=0", "name=first_step"]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        subprocess.run([*PRETRAIN, "data"], cwd=home, check=True, capture_output=True)
        figures = {
            "import torch": median(runs, lambda: timed([sys.executable, "-c", "import torch"], home)),
            "pretrain --help": median(runs, lambda: timed([*PRETRAIN, "--help"], home)),
            "pretrain train --help": median(runs, lambda: timed([*PRETRAIN, "train", "--help"], home)),
            "a misspelt setting": median(runs, lambda: timed([*PRETRAIN, "train", "trainer.max_stps=1"], home)),
            "pretrain data, built": median(runs, lambda: timed([*PRETRAIN, "data"], home)),
            "first training step": median(runs, lambda: first_step(home)),
        }
    for name, seconds in figures.items():
        print(f"{name:<24}{seconds:8.2f} s {seconds / figures['import torch']:8.2f} times importing torch")


def median(runs: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(runs))


def timed(words: list[str], folder: Path) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(words, cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - started


def first_step(folder: Path, *overrides: str) -> float:
    """Seconds from the start of a process to the row of its first step in metrics.jsonl."""
    run = folder / "runs" / "first_step"
    shutil.rmtree(run, ignore_errors=True)
    started = time.perf_counter()
    words = [*PRETRAIN, "train", *overrides, *TINY]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    try:
        while not (metrics.is_file() and "train/loss" in metrics.read_text()):
            if process.poll() is not None:
                raise SystemExit("the run ended before its first step")
            time.sleep(0.005)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
